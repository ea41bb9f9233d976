"""Pieces that every page of results is made of; they know nothing of what is shown."""
