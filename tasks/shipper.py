"""Brings a journal to MLflow in its own thread, so that no server can hold up training.

Where it has come to stands beside the journal. What may have arrived is sent again: each thing
said can be said twice without effect, so after an outage MLflow holds the journal, no more, no
less.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from rlhf_core.records import read_record, write_record
from tasks.journal import Placed, Record, read_records
from tasks.run_journal import RunJournal

SHIP_SECONDS = 1.0
"""Metrics leave in batches about this far apart: a call costs tens of milliseconds."""

LONGEST_PAUSE_SECONDS = 30.0
CLOSING_PAUSE_SECONDS = 1.0
MAX_BATCH_METRICS = 1000
"""MLflow takes no more in one call."""

_log = logging.getLogger(__name__)


class Unreachable(Exception):
    """MLflow did not answer, or said that it cannot now: the same may be sent again later."""


class Refused(Exception):
    """MLflow will never take this record."""


class Gone(Exception):
    """The run, or its experiment, was deleted in MLflow."""


@dataclass(frozen=True)
class Place:
    """Where MLflow keeps a run."""

    run_id: str
    experiment_id: str


@dataclass(frozen=True)
class Shipped:
    """How much of a journal MLflow has, and where."""

    server: str
    offset: int = 0
    place: Place | None = None


class Send(Protocol):
    """Says records to MLflow; returns the place of the run. Raises one of the three faults."""

    def __call__(self, place: Place | None, records: Sequence[Record]) -> Place | None: ...


def server_name(uri: str) -> str:
    """The tracking address without user name and password."""
    parts = urlsplit(uri)
    if not parts.hostname:
        return uri
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


def shipped_path(journal: Path) -> Path:
    """The file that remembers how much of the journal was shipped."""
    return journal.with_suffix(".shipped.json")


def refused_path(journal: Path) -> Path:
    """The file that holds the records that MLflow refused."""
    return journal.with_suffix(".refused.jsonl")


def read_shipped(journal: Path, server: str) -> Shipped:
    """How much of the journal `server` has; nothing where another server got it."""
    try:
        known = read_record(shipped_path(journal))
        place = None if known["place"] is None else Place(**known["place"])
        offset = int(known["offset"])
    except (OSError, ValueError, KeyError, TypeError):  # all is sent again, which changes nothing
        return Shipped(server)
    return Shipped(server, offset, place) if known["server"] == server else Shipped(server)


class Shipment:
    """A journal on its way to one server."""

    def __init__(self, journal: RunJournal, server: str, send: Send) -> None:
        known = read_shipped(journal.path, server)
        self._journal = journal
        self._send = send
        self.shipped = replace(known, offset=min(known.offset, journal.end))
        self.stopped = threading.Event()
        """Nothing more is sent once this is set."""

    @property
    def journal_path(self) -> Path:
        """The journal's file."""
        return self._journal.path

    @property
    def complete(self) -> bool:
        """Whether MLflow has all that the journal holds now."""
        return self.shipped.offset == self._journal.end

    def advance(self) -> None:
        """MLflow has what the journal held when this was called."""
        self._journal.sync()  # else a power cut could leave MLflow ahead of the journal
        for batch in _batches(read_records(self._journal.path, self.shipped.offset)):
            if self.stopped.is_set():
                return
            try:
                self._ship(batch)
            except Refused:
                for placed in batch:
                    self._ship_if_taken(placed)

    def _ship_if_taken(self, placed: Placed) -> None:
        try:
            self._ship([placed])
        except Refused as error:
            kept = refused_path(self._journal.path)
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"reason": str(error), "record": placed.record}) + "\n")
            _log.warning("MLflow refused a record (%s); it is kept in %s", error, kept)
            self._remember(replace(self.shipped, offset=placed.end))

    def _ship(self, batch: Sequence[Placed]) -> None:
        place = self._send(self.shipped.place, [placed.record for placed in batch])
        self._remember(replace(self.shipped, offset=batch[-1].end, place=place))

    def _remember(self, shipped: Shipped) -> None:
        write_record(shipped_path(self._journal.path), asdict(shipped))
        self.shipped = shipped


class Shipper:
    """A thread that ships a journal while it is written."""

    def __init__(self, journal: RunJournal, server: str, send: Send) -> None:
        self.shipment = Shipment(journal, server, send)
        self.faults = 0
        """Faults in a row."""

        self.gone = False
        self._awake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="mlflow shipper", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """What was said is sent at once, unless MLflow is being left in peace after a fault."""
        if not self.faults:
            self._awake.set()

    def await_place(self, seconds: float, faults: int) -> Place | None:
        """Where MLflow keeps the run; None where it did not say in time, or after some faults."""
        until = time.monotonic() + seconds
        self._awake.set()
        while self.shipment.shipped.place is None and time.monotonic() < until:
            if self.gone or self.faults >= faults or not self._thread.is_alive():
                break
            time.sleep(0.02)
        return self.shipment.shipped.place

    def finish(self, seconds: float, faults: float) -> bool:
        """Whether all is shipped, after `seconds` or so many more faults at the latest.

        Nothing is sent afterwards.
        """
        self._closing = True
        until = time.monotonic() + seconds
        faults += self.faults
        self._awake.set()
        while self._thread.is_alive() and self.faults < faults:
            left = until - time.monotonic()
            if left <= 0:
                break
            self._thread.join(min(left, 0.05))
        self.shipment.stopped.set()
        self._awake.set()
        return self.shipment.complete

    def _run(self) -> None:
        pause = SHIP_SECONDS
        while not self.shipment.stopped.is_set():
            self._awake.wait(pause)
            self._awake.clear()
            try:
                self.shipment.advance()
            except (Unreachable, OSError) as error:
                pause = self._pause_after(error)
                continue
            except Gone as error:
                self._leave(error)
                return
            if self.shipment.stopped.is_set():
                return
            if self.faults:
                _log.warning("MLflow answers again, and has all that it missed")
            self.faults, pause = 0, SHIP_SECONDS
            if self._closing and self.shipment.complete:
                return

    def _pause_after(self, error: Exception) -> float:
        if not self.faults:
            _log.warning("MLflow is out of reach: %s. Work goes on; the journal waits", error)
        self.faults += 1
        longest = CLOSING_PAUSE_SECONDS if self._closing else LONGEST_PAUSE_SECONDS
        return float(min(0.5 * 2 ** min(self.faults - 1, 10), longest))

    def _leave(self, error: Gone) -> None:
        self.gone = True
        _log.warning(
            "%s. Work goes on, but MLflow hears no more of this run; its journal %s is kept. "
            "Restore the run in MLflow, and the next start of rlhf sends what is missing",
            error,
            self.shipment.journal_path,
        )


def _batches(records: Iterator[Placed]) -> Iterator[list[Placed]]:
    """Metrics together, as many as one call takes; all else one by one, in the order it was."""
    batch: list[Placed] = []
    size = 0
    for placed in records:
        metrics = len(placed.record["values"]) if placed.record["kind"] == "metrics" else 0
        if batch and (not metrics or size + metrics > MAX_BATCH_METRICS):
            yield batch
            batch, size = [], 0
        if metrics:
            batch.append(placed)
            size += metrics
        else:
            yield [placed]
    if batch:
        yield batch
