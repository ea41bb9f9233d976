"""A real MLflow server, and a proxy before it that can fail in every way."""

from collections.abc import Iterator

import pytest

from tests.tasks.mlflow_servers import Proxy, mlflow_server


@pytest.fixture(scope="session")
def mlflow_address(tmp_path_factory) -> Iterator[str]:
    """Address of an MLflow server of its own."""
    with mlflow_server(tmp_path_factory.mktemp("mlflow-server")) as address:
        yield address


@pytest.fixture
def proxy(mlflow_address, monkeypatch) -> Iterator[Proxy]:
    """Stands between rlhf and MLflow; calls are given up after 5 s, and sent again soon."""
    before = Proxy(mlflow_address)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", before.address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("tasks.shipper.SHIP_SECONDS", 0.05)
    yield before
    before.close()
