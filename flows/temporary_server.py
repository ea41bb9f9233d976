"""The Prefect server of one command, where none is configured: it lives as long as the command.

Prefect starts such a server by itself, but as a plain child: killed with its parent's terminal it
is gone while the run still has to tell it how it ended, which then takes minutes; and when the
parent is killed, it stays. This one hears no signal and ends with its parent, however that ends:
its standard input is a pipe that the parent never writes to, and that the system closes.

Several of them that make the tables of one new database at once spoil it; here they make them one
after the other.
"""

import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import prefect
import uvicorn
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_HOME, get_current_settings

from rlhf_core.errors import StorageError
from rlhf_core.stopping import PROCESS, SIGNALS

LOOPBACK = "127.0.0.1"

CONNECTION_SECONDS = 1
"""How long a server that ends waits for open connections, which its clients close last of all."""

STOP_SECONDS = 10
"""How long the command waits for the server's end when nobody waits for the command."""

NOT_STARTED = 3
"""Exit code at which Prefect tries another port, again and again."""

STARTS = 2
"""How often a server is started before it is given up."""

POLL_SECONDS = 0.05


class TemporaryServer(SubprocessASGIServer):
    """The server that Prefect starts when it is asked for one and none is configured."""

    _starts = 0

    def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
        self._starts += 1
        if self._starts > STARTS:
            raise StorageError(
                f"Prefect's own server does not start; its words stand above. Its database is in "
                f"{PREFECT_HOME.value()}: move that folder away if it is damaged, or set "
                "PREFECT_API_URL to a server that runs."
            )
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        kind = {
            "PREFECT_UI_ENABLED": "0",
            "PREFECT__SERVER_EPHEMERAL": "1",
            "PREFECT__SERVER_FINAL": "1",
        }
        return subprocess.Popen(
            [sys.executable, "-m", __name__, str(self.port)],
            env=os.environ | kind | settings,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def stop(self) -> None:
        """Let the server end, and wait for it unless this process was asked to end itself."""
        process, self.server_process = self.server_process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
            if not PROCESS.signum:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_SECONDS)
        super().stop()


def use_temporary_server() -> None:
    """Whatever Prefect asks of a server of its own, from now on it asks of a TemporaryServer."""
    TemporaryServer()  # Prefect keeps one instance, the first that is made


def main() -> None:
    """Serve Prefect's API on the port given until standard input is closed.

    Unless the environment says that it is temporary, its pages and its scheduler are there too.
    """
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    server = uvicorn.Server(
        uvicorn.Config(
            "prefect.server.api.server:create_app",
            factory=True,
            host=LOOPBACK,
            port=int(sys.argv[1]),
            log_level="error",
            lifespan="on",
            timeout_graceful_shutdown=CONNECTION_SECONDS,
        )
    )
    threading.Thread(target=_end_with_parent, args=(server,), daemon=True).start()
    serving = threading.Thread(target=server.run)  # in a main thread it would take the signals
    with _tables_made_once(PREFECT_HOME.value()):
        serving.start()
        while serving.is_alive() and not server.started:
            time.sleep(POLL_SECONDS)
        if not server.started:
            sys.exit(NOT_STARTED)
    serving.join()


@contextmanager
def _tables_made_once(home: Path) -> Iterator[None]:
    """Nobody else starts on a database in `home` whose tables are not known to be there.

    They are once a server of this version of Prefect has started.
    """
    made = home / f"tables-of-{prefect.__version__}"
    if made.exists():
        yield
        return
    home.mkdir(parents=True, exist_ok=True)
    lock = os.open(home / "tables.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        made.touch()
    finally:
        os.close(lock)


def _end_with_parent(server: uvicorn.Server) -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # tells each call that is cut off
    server.should_exit = True


if __name__ == "__main__":
    main()
