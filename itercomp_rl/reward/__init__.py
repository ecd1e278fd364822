"""Reward models: the scorer, what it learns from pairs, and its files."""
