"""T2I-CompBench, the field's benchmark: its prompts, its metrics and the models that they use."""
