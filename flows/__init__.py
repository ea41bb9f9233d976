"""Prefect flows that chain the stages, and the `rlhf` command."""
