"""Prefect and MLflow: open a stage's inputs, call the core once, record the lineage."""
