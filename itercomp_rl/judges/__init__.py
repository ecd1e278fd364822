"""Who ranks: the oracle of the embedded world, reward models, files of human ranks."""
