"""The Prefect server that schedules run on: the configured one, or one of our own on loopback."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rlhf_core.errors import StorageError, UserError

LOOPBACK = "127.0.0.1"
POLL_SECONDS = 0.5
STOP_SECONDS = 10
ASK_SECONDS = 10

START_SECONDS = 120.0
"""How long a Prefect server may take to answer; a new database takes twenty on a small machine."""


ENDS_WITH_ITS_PARENT = "flows.temporary_server"
"""Module that serves until its standard input is closed."""


class PrefectServer(NamedTuple):
    """A server that answers."""

    pages: str
    """Address of its pages; that of its API ends in `/api`."""

    processes: frozenset[int]
    """Process numbers of the server, where it is ours."""


def prefect_command(port: int) -> list[str]:
    """The command line of a Prefect server on loopback."""
    return [
        *(sys.executable, "-m", "prefect", "server", "start"),
        *("--host", LOOPBACK, "--port", str(port)),
    ]


@contextmanager
def running_server(port: int) -> Iterator[PrefectServer]:
    """The configured server, or one that ends with the block, or with this process; it answers."""
    configured = os.environ.get("PREFECT_API_URL")
    if configured is not None:
        check_answers(configured)
        yield PrefectServer(configured.rstrip("/").removesuffix("/api"), frozenset())
        return
    check_port("Prefect", port, "--prefect-port")
    pages = f"http://{LOOPBACK}:{port}"
    environment = os.environ | {
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": pages,
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT__SERVER_FINAL": "1",
    }
    command = [sys.executable, "-m", ENDS_WITH_ITS_PARENT, str(port)]
    server = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, start_new_session=True
    )
    assert server.stdin is not None, "it is a pipe"
    try:
        _wait_until_up(server, f"{pages}/api/health")
        os.environ["PREFECT_API_URL"] = f"{pages}/api"
        yield PrefectServer(pages, frozenset({server.pid}))
    finally:
        server.stdin.close()
        try:
            server.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()


def check_answers(api: str) -> None:
    """Refuse to go on with a server that does not answer, before Prefect waits minutes for it."""
    try:
        with urllib.request.urlopen(f"{api.rstrip('/')}/health", timeout=ASK_SECONDS):
            return
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):  # it is there; Prefect's own client knows the login
            return
        found = f"HTTP {error.code}"
    except (OSError, ValueError) as error:
        found = str(getattr(error, "reason", error))
    raise UserError(
        f"No Prefect server answers at PREFECT_API_URL={api} ({found}). Start it, or give the "
        f"address of one that runs, such as http://{LOOPBACK}:4200/api."
    )


def check_port(whose: str, port: int, option: str) -> None:
    """Refuse a port that another program listens on: it would be taken for our server."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise UserError(
                f"Port {port} of {LOOPBACK} cannot be had for {whose}'s server: {error.strerror}. "
                f"Choose another with {option}."
            ) from error


def _wait_until_up(server: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(address, timeout=POLL_SECONDS):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_SECONDS)
    raise StorageError(
        f"The Prefect server does not answer at {address}; its own words stand above. Another port "
        "is chosen with --prefect-port."
    )
