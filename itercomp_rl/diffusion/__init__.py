"""Policies: what is trained, how it denoises, and the gradient that reward feedback sends into it."""
