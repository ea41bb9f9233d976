"""Property tests draw the same examples on every run, and may be slow on a shared machine."""

from hypothesis import settings

settings.register_profile("maths", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("maths")
