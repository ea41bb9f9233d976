"""A disk that fails while MLflow's tables are made costs the attempt, and no later one."""

import importlib
import resource

import pytest


def test_tables_that_could_not_be_made_are_made_later_by_the_same_process(tmp_path):
    """The system itself refuses: files may not grow past a hundred kilobytes."""
    mlflow = importlib.import_module("mlflow")
    store = importlib.import_module("tasks.mlflow_store")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(mlflow.MlflowException, match="cannot be opened"):
            store.mlflow_client(uri)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    assert not (tmp_path / "mlflow.db").exists()
    assert [found.name for found in store.mlflow_client(uri).search_experiments()] == ["Default"]
    assert not list(tmp_path.glob(".mlflow.db.new*"))
