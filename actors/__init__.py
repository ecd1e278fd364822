"""Who does the work: thin Ray shells around the roles."""
