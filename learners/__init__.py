"""How weights learn: gradients, engines, checkpoints."""
