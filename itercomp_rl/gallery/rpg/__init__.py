"""RPG: every region of a plan has its own prompt."""
