"""How the embedded world's models are made: the base, the specialists and the reward trunks."""
