"""Real servers on free ports of loopback: Prefect, a worker of a process pool, MLflow."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

START_SECONDS = 180.0
STOP_SECONDS = 30.0

RLHF = "import sys; from flows.cli import main; sys.argv[0] = 'rlhf'; main()"
"""The command, whether or not it is installed."""


def free_port() -> int:
    """A port on which nothing listened just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


QUIET = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
"""Nothing is told to the makers of the servers."""


class Server:
    """A process that answers at an address, and can be ended and started again there.

    An empty value in `environment` takes the variable away.
    """

    def __init__(
        self, command: list[str], health: str, log: Path, environment: dict[str, str]
    ) -> None:
        self._command = command
        self._health = health
        self._log = log
        self._environment = {
            name: value for name, value in (os.environ | QUIET | environment).items() if value
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """The server answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + START_SECONDS
        while not _answers(self._health):
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{self._command[:5]} did not start; see {self._log}")
            time.sleep(0.1)

    def end(self, signum: int = signal.SIGTERM) -> None:
        """The server and its children are gone."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signum)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None


@contextlib.contextmanager
def prefect_server(folder: Path, **environment: str) -> Iterator[str]:
    """Address of the API of a Prefect server with all its services, at home in `folder`."""
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    own = {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": "",
        "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(folder / "pages"),
    }
    server = Server(command, f"{api}/health", folder / "prefect-server.log", own | environment)
    try:
        server.start()
        yield api
    finally:
        server.end()


def mlflow_server(folder: Path, database: str, port: int) -> Server:
    """An MLflow server at the port, not yet started."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--backend-store-uri", database]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_TRACKING_URI": ""}
    return Server(command, f"http://127.0.0.1:{port}/health", folder / "mlflow-server.log", own)


@contextlib.contextmanager
def prefect_worker(
    api: str, pool: str, log: Path, environment: Mapping[str, str] = os.environ
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the pool, which asks for work every second."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool]
    own = {"PREFECT_API_URL": api, "PREFECT_WORKER_QUERY_SECONDS": "1"}
    with log.open("ab") as file:
        process = subprocess.Popen(
            command,
            env={**environment, **QUIET, **own},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False
