"""Measurements: what the README and the notes claim, with the command that gives it."""
