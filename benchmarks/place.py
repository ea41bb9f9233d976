"""A store of its own, the commands that run in it, and its journals beside what MLflow has."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.servers import RLHF
from tasks.heartbeat import owners
from tasks.journal import read_records
from tasks.leftovers import PIPELINES
from tasks.run_journal import SUFFIX
from tasks.store import CHECKPOINTS, JOURNAL, WORK, Store

LONGEST_SECONDS = 900.0

Point = tuple[str, int, float, int]


class Place:
    """A folder with a store, and the commands that run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "store")
        self.kept = folder / "kept"
        self.kept.mkdir()
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MLFLOW_TRACKING", "PREFECT_", "RLHF_"))
        }
        self.environment |= {"RLHF_STORE": str(self.store.folder), "RLHF_HEARTBEAT_SECONDS": "10"}

    def rlhf(self, *arguments: str) -> subprocess.Popen[str]:
        """The command, started; what it says goes to a log."""
        with (self.folder / "rlhf.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-c", RLHF, *arguments],
                env=self.environment,
                stdout=log,
                stderr=log,
                text=True,
            )

    def said(self) -> str:
        """All that the commands have said."""
        return (self.folder / "rlhf.log").read_text()

    def trains(self, stage: str) -> int | None:
        """The process that trains the stage, once it has saved its state."""
        if not [*self.store.folder.glob(f"{WORK}/{stage}-*/{CHECKPOINTS}/step-*")]:
            return None
        return next((o.process.pid for _, o in owners(self.store.folder) if o.stage == stage), None)

    def keep_journals(self) -> None:
        """A second name is given to every journal that has none yet."""
        for pattern in (f"{PIPELINES}/*/*{SUFFIX}", f"{WORK}/*/{JOURNAL}/*{SUFFIX}"):
            for journal in self.store.folder.glob(pattern):
                with suppress(FileExistsError, FileNotFoundError):
                    (self.kept / journal.name).hardlink_to(journal)

    def watch(self, what: str, look: Callable[[], object]) -> Any:
        """What `look` finds, once it finds something; journals are kept meanwhile."""
        until = time.monotonic() + LONGEST_SECONDS
        while True:
            self.keep_journals()
            found = look()
            if found is not None and found is not False:
                return found
            if time.monotonic() > until:
                raise RuntimeError(f"waited {LONGEST_SECONDS:.0f} s for {what}: {self.said()}")
            time.sleep(0.2)


@contextmanager
def new_place() -> Iterator[Place]:
    """A place whose folder goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="rlhf-outages-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user
    try:
        yield Place(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def compare(kept: Path, address: str) -> tuple[int, int, int]:
    """Points in the journals; those that MLflow lacks; those that it has beyond or twice."""
    from tasks.mlflow_store import mlflow_client, runs_of_journal

    client = mlflow_client(address)
    said = missing = more = 0
    for journal in kept.glob(f"*{SUFFIX}"):
        points: Counter[Point] = Counter()
        for placed in read_records(journal):
            points.update(_points(placed.record))
        runs = runs_of_journal(client, journal.stem)
        shown: Counter[Point] = Counter(
            (name, point.step, point.value, point.timestamp)
            for run in runs
            for name in {name for name, *_ in points}
            for point in client.get_metric_history(run, name)
        )
        said += len(points)
        missing += (Counter(set(points)) - shown).total()
        more += (shown - Counter(set(points))).total()
    return said, missing, more


def _points(record: dict[str, Any]) -> Iterator[Point]:
    if record["kind"] == "metrics":
        for name, value in record["values"].items():
            yield name, record["step"], value, record["time"]
    elif record["kind"] in ("summary", "model"):
        for name, value, when in record["points"]:
            yield name, record["step"], value, when
