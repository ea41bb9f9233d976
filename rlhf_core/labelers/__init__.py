"""Labelers: functions that a recipe names to rank the responses that were collected."""
