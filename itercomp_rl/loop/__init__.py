"""The rounds of a run in plain asyncio: who is asked for what, in which order, and what happens when a process dies."""
