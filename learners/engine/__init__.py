"""Engines turn gradients into weights: plain torch, or DeepSpeed's ZeRO, alone or in a group."""
