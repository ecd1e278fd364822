"""The settings of a run: their schema, reading them from YAML, and rules checked before anything starts."""
