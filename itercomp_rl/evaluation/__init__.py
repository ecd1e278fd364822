"""How good a model is by the field's own measures: T2I-CompBench and realism."""
