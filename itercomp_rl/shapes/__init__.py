"""The embedded world: procedural scenes of two shapes, a renderer, an exact oracle, and tiny models trained on them."""
