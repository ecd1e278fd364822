"""What the system computes: items, loop, maths, models, store, configuration; no ray, no deepspeed."""
