"""MLflow's and Prefect's pages as two servers on loopback, for as long as the command runs."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import click

from flows.prefect_server import (
    LOOPBACK,
    POLL_SECONDS,
    STOP_SECONDS,
    check_port,
    prefect_command,
)
from rlhf_core.errors import StorageError
from tasks.environment import mlflow_is_served, mlflow_pages, prefect_pages


def serve_pages(store: Path, *, mlflow_port: int, prefect_port: int) -> None:
    """Both pages are up until the command is interrupted; a server elsewhere is named only."""
    commands: dict[str, list[str]] = {}
    addresses = {"MLflow": mlflow_pages(), "Prefect": prefect_pages()}
    if not mlflow_is_served():
        check_port("MLflow", mlflow_port, "--mlflow-port")
        addresses["MLflow"] = f"http://{LOOPBACK}:{mlflow_port}"
        commands["MLflow"] = _mlflow_command(store, mlflow_port)
    if "PREFECT_API_URL" not in os.environ:
        check_port("Prefect", prefect_port, "--prefect-port")
        addresses["Prefect"] = f"http://{LOOPBACK}:{prefect_port}"
        commands["Prefect"] = prefect_command(prefect_port)
    for name, address in addresses.items():
        click.echo(f"{name:<8} {address}")
    if not commands:
        return
    click.echo("Starting takes up to half a minute; Ctrl-C stops both.")
    environment = os.environ | {
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": addresses["Prefect"],
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    }
    _run_until_one_ends(commands, environment)


def _mlflow_command(store: Path, port: int) -> list[str]:
    tracking = os.environ["MLFLOW_TRACKING_URI"]
    artifacts = (store / "mlflow-artifacts").as_uri()
    hosts = f"{LOOPBACK}:{port},localhost:{port}"
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port)),
        *("--backend-store-uri", tracking, "--default-artifact-root", artifacts),
        *("--allowed-hosts", hosts, "--workers", "1"),
    ]


def _run_until_one_ends(commands: Mapping[str, list[str]], environment: Mapping[str, str]) -> None:
    servers = {
        name: subprocess.Popen(command, env=environment) for name, command in commands.items()
    }
    try:
        while True:
            for name, server in servers.items():
                if server.poll() is not None:
                    raise StorageError(
                        f"The {name} server ended with status {server.returncode}; its own words "
                        "stand above."
                    )
            time.sleep(POLL_SECONDS)
    finally:
        for server in servers.values():
            server.terminate()
        for server in servers.values():
            try:
                server.wait(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
