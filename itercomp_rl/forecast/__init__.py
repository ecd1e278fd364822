"""What a run will need, before it starts: memory, time, and the counts of actors that suit it."""
