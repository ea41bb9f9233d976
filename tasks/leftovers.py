"""What earlier runs could not tell MLflow: their journals wait in the store until it is sent."""

import logging
import math
import os
import threading
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf_core.stopping import PROCESS
from tasks.journal import read_records
from tasks.run_journal import FINISHED, SUFFIX, RunJournal
from tasks.shipper import (
    Gone,
    Send,
    Shipment,
    Shipper,
    Unreachable,
    read_shipped,
    refused_path,
    server_name,
    shipped_path,
)
from tasks.store import JOURNAL, WORK

LEFTOVER_SECONDS = 10.0
"""How long a start of rlhf spends on them."""

LEFTOVER_FAULTS = 2
"""Faults in a row after which they wait for the next start."""

LATE_SECONDS = 10.0
"""How often a run under way looks whether MLflow lacks something of its finished stages."""

LAST_SECONDS = 20.0
STOP_SECONDS = 3.0
"""How long a run that ends waits while they are sent; less where a signal ends it."""

ENDED = (FINISHED, "FAILED", "KILLED")
"""How MLflow names the ends of a run."""

PIPELINES = "tracking"
"""Folder of the store with the journals of pipeline runs; a stage's lies in its work folder."""

KEPT_DAYS = 30
"""A pipeline run that did not finish may be retried; after this long its journal is removed."""

_log = logging.getLogger(__name__)


def unshipped(store: Path) -> list[Path]:
    """The store's journals that hold what the MLflow of the environment does not have.

    Those that began first come first: later ones name their runs.
    """
    server = server_name(os.environ["MLFLOW_TRACKING_URI"])
    waiting = [
        path for path in _journals(store) if path.stat().st_size > read_shipped(path, server).offset
    ]
    return sorted(waiting, key=_begun)


def ship_leftovers(store: Path, seconds: float = LEFTOVER_SECONDS) -> int:
    """Send what earlier runs could not, for so long at most; returns how many journals still wait.

    Journals that another process writes or ships are left to it.
    """
    uri = os.environ["MLFLOW_TRACKING_URI"]
    paths = unshipped(store)
    if paths:
        mlflow_sender(uri, tries=0)  # loads MLflow, which may take longer than what it is for
    until = time.monotonic() + seconds
    waiting, tries = 0, 0.0
    for path in paths:
        try:
            book = RunJournal(path)
        except FileNotFoundError:
            continue
        except BlockingIOError:
            tries = math.inf  # it may be what later ones wait for
            continue
        try:
            if waiting or not _ship_whole(book, uri, until, tries):
                waiting += 1
        finally:
            book.close()
    _remove_old(store)
    if waiting:
        _log.warning("MLflow does not have all of %d earlier runs; their journals wait", waiting)
    return waiting


def _ship_whole(book: RunJournal, uri: str, until: float, tries: float) -> bool:
    """Whether nothing of the journal waits: MLflow has it, or wants no more of it."""
    shipper = Shipper(book, server_name(uri), mlflow_sender(uri, tries))
    shipped = shipper.finish(until - time.monotonic(), LEFTOVER_FAULTS)
    if shipped and book.status == FINISHED:
        remove_journal(book.path)
    return shipped or shipper.gone


@contextmanager
def shipping_finished(store: Path) -> Iterator[None]:
    """While the block runs, MLflow is sent what finished stages could not tell it, once it answers.

    Later stages name the runs of earlier ones, and wait for them. When the block ends, the journals
    of stages that failed are sent as well: until then they may be tried again, and continued.
    """
    ended = threading.Event()
    thread = threading.Thread(
        target=_ship_again_and_again, args=(store, ended), name="late shipper", daemon=True
    )
    thread.start()
    patience = LAST_SECONDS
    try:
        yield
    except BaseException as error:
        if PROCESS.has_ended(error):
            patience = STOP_SECONDS
        raise
    finally:
        ended.set()
        thread.join(patience)


def _ship_again_and_again(store: Path, ended: threading.Event) -> None:
    gone: set[Path] = set()
    while not ended.wait(LATE_SECONDS):
        ship_ended(store, (FINISHED,), gone)
    ship_ended(store, ENDED, gone)


def ship_ended(store: Path, statuses: Container[str | None], gone: set[Path]) -> None:
    """MLflow has the journals of runs that ended so, up to the first that it cannot take now.

    Those of runs that were deleted in MLflow are added to `gone`, and passed over from then on.
    """
    uri = os.environ["MLFLOW_TRACKING_URI"]
    for path in unshipped(store):
        if path in gone:
            continue
        try:
            book = RunJournal(path)
        except (BlockingIOError, FileNotFoundError):
            continue
        try:
            if book.status in statuses:
                _ship_at_once(book, uri)
        except Gone:
            gone.add(path)
        except (Unreachable, OSError):
            return
        finally:
            book.close()


def _ship_at_once(book: RunJournal, uri: str) -> None:
    shipment = Shipment(book, server_name(uri), mlflow_sender(uri, tries=math.inf))
    shipment.advance()
    if shipment.complete and book.status == FINISHED:
        remove_journal(book.path)
    _log.warning("MLflow has now all of a run that ended while it was out of reach")


def _begun(journal: Path) -> int:
    first = next(read_records(journal), None)
    return int(first.record["time"]) if first else 0


def remove_journal(journal: Path) -> None:
    """The journal's files are gone, and its folders where nothing else is in them."""
    for path in (shipped_path(journal), journal):
        path.unlink(missing_ok=True)
    for folder in (journal.parent, journal.parent.parent):
        if any(folder.iterdir()):
            return
        folder.rmdir()


def _remove_old(store: Path) -> None:
    for path in (store / PIPELINES).glob(f"*/*{SUFFIX}"):
        if time.time() - path.stat().st_mtime > KEPT_DAYS * 86400:
            refused_path(path).unlink(missing_ok=True)
            remove_journal(path)


def _journals(store: Path) -> Iterator[Path]:
    """Every journal of the store."""
    yield from (store / PIPELINES).glob(f"*/*{SUFFIX}")
    yield from (store / WORK).glob(f"*/{JOURNAL}/*{SUFFIX}")


def mlflow_sender(uri: str, tries: float) -> Send:
    """Says records to the MLflow at `uri`. Loading MLflow takes seconds: it is left till here."""
    from tasks.mlflow_sender import Sender

    return Sender(uri, tries)
