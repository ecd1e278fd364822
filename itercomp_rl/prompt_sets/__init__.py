"""Prompts that are there without a file of the user's: the benchmark's, which are shipped, and data sets of the hub."""
