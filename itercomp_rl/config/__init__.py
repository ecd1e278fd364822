"""What a run is asked to do: the schema, reading it from YAML, and rules that hold before anything starts."""
