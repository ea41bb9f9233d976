"""A PostgreSQL of its own in a folder, on a free port of loopback, to be torn down in mid-run."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.servers import free_port

USER = "postgres"
"""Also the account that it runs as where root, whom it refuses, starts it."""

INSTALLED = Path("/usr/lib/postgresql")
"""Where Debian keeps its programs, a folder for each version."""


class Postgres:
    """A cluster in `folder`, not yet started; it needs no password and listens on loopback."""

    def __init__(self, folder: Path) -> None:
        self._data = folder / "postgres"
        self._bin = _programs()
        self._user = USER if os.geteuid() == 0 else None
        self._port = free_port()
        self._data.mkdir()
        if self._user:
            shutil.chown(self._data, self._user)
        self._run("initdb", "-U", USER, "-A", "trust", "-E", "UTF8", "--no-locale")

    def start(self) -> None:
        """It takes connections."""
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -k {self._data}"
        log = str(self._data / "server.log")
        self._run("pg_ctl", "-w", "-l", log, "-o", options, "start")

    def end(self) -> None:
        """It is gone as after a crash: nothing is written out, every connection breaks."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def create_database(self, name: str) -> None:
        """An empty database of this name is there."""
        where = ("-h", "127.0.0.1", "-p", str(self._port), "-U", USER)
        subprocess.run([str(self._bin / "createdb"), *where, name], check=True)

    def address(self, driver: str, name: str) -> str:
        """The database as SQLAlchemy names it; the driver is said, for its default has changed."""
        return f"postgresql+{driver}://{USER}@127.0.0.1:{self._port}/{name}"

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._bin / program), "-D", str(self._data), *arguments],
            check=True,
            user=self._user,
            cwd="/",
            stdout=subprocess.DEVNULL,
        )


def _programs() -> Path:
    """The newest installed programs that this needs; SystemExit where something is missing."""
    found = sorted(INSTALLED.glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    known = found[-1] if found else shutil.which("initdb")
    if known is None:
        raise SystemExit("PostgreSQL is not installed: apt-get install postgresql, for example.")
    if importlib.util.find_spec("psycopg2") is None:
        raise SystemExit("MLflow needs psycopg2 for PostgreSQL: pip install psycopg2-binary.")
    return Path(known).parent
