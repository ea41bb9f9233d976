"""Who runs what: each running pipeline and stage has a record in the store that its process renews.

A record whose process is gone, or whose beats have ended, is what the reaper ends.
"""

import math
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rlhf_core.records import read_record, write_record
from tasks.environment import seconds_given
from tasks.locks import Holder, this_process
from tasks.memory import memory_now

HEARTBEAT_VARIABLE = "RLHF_HEARTBEAT_SECONDS"
HEARTBEAT_SECONDS = 30.0
MISSED_BEATS = 3
"""A process of another host is taken for dead after this many."""

RUNNING = "running"
"""Folder of the store with one record per running pipeline or stage."""

_PID_NAMESPACE = Path("/proc/self/ns/pid")


@dataclass(frozen=True)
class Owner:
    """A running pipeline or stage, and the process that runs it."""

    kind: Literal["pipeline", "stage"]
    stage: str | None
    run_id: str | None
    """The pipeline run; None until it is open."""

    journal: str
    """Folder of the journal of the MLflow run, in the store."""

    prefect_flow_run: str | None
    prefect_task_run: str | None
    prefect_run_count: int
    """Which attempt of the flow run this is."""

    process: Holder
    pid_namespace: str
    """Two containers may have the same host name, and count processes apart."""

    interval: float
    beat: float
    """When the process was last heard of, in seconds since 1970."""

    memory: Mapping[str, Any] | None = None
    """The `tasks.memory.Memory` of the process when it was last heard of."""

    reaped: str | None = None
    """Why the run was ended here; Prefect is still to be told."""

    def is_gone(self, now: float) -> bool:
        """Whether the process no longer runs; one that cannot be looked at, when its beats end."""
        here = this_process()
        if self.process.host == here.host and self.process.boot_id != here.boot_id:
            return True
        if self.process.host == here.host and self.pid_namespace == pid_namespace():
            return not self.process.is_alive()
        return now - self.beat > MISSED_BEATS * self.interval


class Heart:
    """Writes the record of a running pipeline or stage again and again, until it is stopped."""

    def __init__(self, store: Path, owner: Owner) -> None:
        self._path = store / RUNNING / f"{uuid.uuid4().hex}.json"
        self._owner = owner
        self._one_at_a_time = threading.Lock()
        self._stopped = threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def note_run(self, run_id: str) -> None:
        """The record names the pipeline run, which is open now."""
        with self._one_at_a_time:
            self._owner = replace(self._owner, run_id=run_id)
            self._write()

    def stop(self) -> None:
        """Nothing runs any more, and no record says so."""
        self._stopped.set()
        with self._one_at_a_time:
            self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stopped.wait(self._owner.interval):
            with self._one_at_a_time:
                if not self._stopped.is_set():
                    memory = asdict(memory_now())
                    self._owner = replace(self._owner, beat=time.time(), memory=memory)
                    self._write_if_there_is_room()

    def _write_if_there_is_room(self) -> None:
        try:
            self._write()
        except OSError:  # a full disk: this process is looked at, or misses a beat
            return

    def _write(self) -> None:
        write_owner(self._path, self._owner)


@contextmanager
def beating(
    store: Path,
    *,
    stage: str | None,
    run_id: str | None,
    journal: Path,
    prefect: tuple[str | None, str | None, int],
) -> Iterator[Heart]:
    """The store says that this process runs the pipeline, or the stage where one is named.

    `prefect` are the flow run, the task run, and which attempt of the flow run this is.
    """
    flow_run, task_run, run_count = prefect
    owner = Owner(
        kind="pipeline" if stage is None else "stage",
        stage=stage,
        run_id=run_id,
        journal=str(journal.relative_to(store)),
        prefect_flow_run=flow_run,
        prefect_task_run=task_run,
        prefect_run_count=run_count,
        process=this_process(),
        pid_namespace=pid_namespace(),
        interval=heartbeat_seconds(),
        beat=time.time(),
        memory=asdict(memory_now()),
    )
    heart = Heart(store, owner)
    try:
        yield heart
    finally:
        heart.stop()


def owners(store: Path) -> Iterator[tuple[Path, Owner]]:
    """Every record of the store with its file.

    Those that are being written or removed, or are damaged, are passed over.
    """
    for path in sorted((store / RUNNING).glob("*.json")):
        if path.name.startswith("."):
            continue
        owner = read_owner(path)
        if owner is not None:
            yield path, owner


def read_owner(path: Path) -> Owner | None:
    """What the file records, or None where it is gone or damaged."""
    try:
        facts = read_record(path)
        return Owner(**{**facts, "process": Holder(**facts["process"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_owner(path: Path, owner: Owner) -> None:
    """The record is in the file; readers see it whole."""
    write_record(path, asdict(owner))


def heartbeat_seconds() -> float:
    """Time between two beats: RLHF_HEARTBEAT_SECONDS, else half a minute."""
    return seconds_given(
        HEARTBEAT_VARIABLE,
        HEARTBEAT_SECONDS,
        allowed=lambda seconds: 0 < seconds < math.inf,
        expected=" above 0: give one, or leave it out.",
    )


def pid_namespace() -> str:
    """Names what process numbers count within; empty where the system does not tell."""
    try:
        return str(_PID_NAMESPACE.readlink())
    except OSError:
        return ""
