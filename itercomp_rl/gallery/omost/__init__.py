"""Omost: a canvas of descriptions, each attended to in its rectangle."""
