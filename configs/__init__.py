"""The shipped configs, as package data."""
