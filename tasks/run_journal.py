"""What one tracked run says, in the order it was said: a journal that a resumed run continues.

A folder holds the journals of one stage job or one flow run. A run that did not finish is
continued by the next one there; a finished one is left to be shipped, and a new one begins.
"""

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.journal import Journal, make_journal, read_records

SUFFIX = ".journal"
FINISHED = "FINISHED"
LOCAL_PREFIX = "local-"
"""A run that MLflow has not heard of yet is named by its journal until MLflow has."""

LOCK_SECONDS = 30.0
"""How long another process that ships the journal is waited for: one call to a server that hangs is
given up earlier."""


class RunJournal:
    """The journal of one run; nothing it holds is said twice."""

    def __init__(self, path: Path) -> None:
        self._reported: dict[str, _Steps] = {}
        self._latest: dict[str, tuple[int, float, int]] = {}
        self._params: dict[str, str] = {}
        self.status: str | None = None
        """How the run ended; None while it has not."""

        self.openings = 0
        """How many processes have opened the run."""

        self.last_step = 0
        self._journal = Journal(path, self._learn)

    @property
    def path(self) -> Path:
        """The journal's file."""
        return self._journal.path

    @property
    def name(self) -> str:
        """Names the journal; MLflow's run carries it as a tag."""
        return self.path.stem

    @property
    def end(self) -> int:
        """Where the last record ends."""
        return self._journal.end

    @property
    def cut(self) -> int:
        """Bytes at the end that were no whole record when the journal was opened."""
        return self._journal.cut

    def open(self, experiment: str, name: str, tags: Mapping[str, str], parent: str | None) -> None:
        """The run begins, or goes on after a kill."""
        facts = {"experiment": experiment, "name": name, "tags": dict(tags), "parent": parent}
        self.say("open", journal=self.name, time=milliseconds(), **facts)

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of a step, but those that the run reported before it was killed."""
        values = {}
        for name, value in metrics.items():
            if step not in self._reported.setdefault(name, _Steps()):
                values[name] = float(value)
        if values:
            self.say("metrics", time=milliseconds(), step=step, values=values)

    def summary(self, metrics: Mapping[str, float]) -> list[tuple[str, float, int]]:
        """Name, value and time of what the run came to; a value the run has had keeps its time.

        MLflow knows a point by name, step, value and time: saying it again changes nothing there.
        """
        now = milliseconds()
        points = []
        for name, value in metrics.items():
            step, known, when = self._latest.get(name, (-1, 0.0, now))
            same = step == self.last_step and repr(known) == repr(float(value))
            points.append((name, float(value), when if same else now))
        return points

    def params(self, params: Mapping[str, str]) -> None:
        """Settings; one whose value the run had otherwise before becomes a tag, as MLflow asks."""
        new = {name: value for name, value in params.items() if name not in self._params}
        changed = {
            f"changed.{name}": value
            for name, value in params.items()
            if self._params.get(name, value) != value
        }
        if new:
            self.say("params", values=new)
        if changed:
            self.say("tags", values=changed)

    def end_run(self, status: str, tags: Mapping[str, str]) -> None:
        """The run ended with this status, as MLflow names it, and these tags say why."""
        if tags:
            self.say("tags", values=dict(tags))
        self.say("end", journal=self.name, status=status, time=milliseconds())
        self.sync()

    def say(self, kind: str, **facts: Any) -> None:
        """Append one record."""
        record = {"kind": kind, **facts}
        self._journal.append(record)
        self._learn(record)

    def sync(self) -> None:
        """All that was said outlives a power cut."""
        self._journal.sync()

    def close(self) -> None:
        """Another process may continue the journal, or ship it."""
        self._journal.close()

    def _learn(self, record: Mapping[str, Any]) -> None:
        kind = record["kind"]
        if kind == "metrics":
            step = record["step"]
            self.last_step = max(self.last_step, step)
            for name, value in record["values"].items():
                self._reported.setdefault(name, _Steps()).add(step)
                self._latest[name] = (step, value, record["time"])
        elif kind in ("summary", "model"):
            for name, value, when in record["points"]:
                self._latest[name] = (record["step"], value, when)
        elif kind == "params":
            self._params.update(record["values"])
        elif kind == "open":
            self.status = None
            self.openings += 1
        elif kind == "end":
            self.status = record["status"]


class _Steps:
    """A set of steps, one bit each: a run may have a million."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def __contains__(self, step: int) -> bool:
        byte, bit = divmod(step, 8)
        return byte < len(self._bits) and bool(self._bits[byte] >> bit & 1)

    def add(self, step: int) -> None:
        byte, bit = divmod(step, 8)
        if byte >= len(self._bits):
            self._bits.extend(bytes(byte + 1 - len(self._bits)))
        self._bits[byte] |= 1 << bit


def open_journal(folder: Path) -> RunJournal:
    """The folder's unfinished journal, or a new one where it has none that is free."""
    for path in journals_in(folder):
        found = _opened(path)
        if found is None:
            continue
        if found.status != FINISHED:
            return found
        found.close()
    new = folder / f"{uuid.uuid4().hex}{SUFFIX}"
    make_journal(new)
    return RunJournal(new)


def journals_in(folder: Path) -> list[Path]:
    """The folder's journals, newest first."""
    if not folder.is_dir():
        return []
    return sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime, reverse=True)


def is_unfinished(folder: Path) -> bool:
    """Whether the newest journal of the folder tells of a run that did not come to its end."""
    for path in journals_in(folder)[:1]:
        status = None
        for placed in read_records(path):
            if placed.record["kind"] in ("open", "end"):
                status = placed.record.get("status")
        return status != FINISHED
    return False


def last_step(journal: Path) -> int:
    """The last step that the journal reports; 0 where it reports none, or is gone."""
    try:
        records = [placed.record for placed in read_records(journal)]
    except OSError:
        return 0
    return max((record["step"] for record in records if record["kind"] == "metrics"), default=0)


def milliseconds() -> int:
    """The time as MLflow counts it."""
    return int(time.time() * 1000)


def _opened(path: Path) -> RunJournal | None:
    """The journal, once whoever ships it has let it go; None where nobody does."""
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return RunJournal(path)
        except FileNotFoundError:
            return None
        except BlockingIOError:
            if time.monotonic() > until:
                return None
            time.sleep(0.1)
