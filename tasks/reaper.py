"""Ends what a killed process left "running": in the store, in MLflow and in Prefect.

Called at every start and, while schedules are served, again and again. It never touches a run
whose process lives, or, on another host, still beats.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from rlhf_core.errors import ArtifactError, StorageError
from tasks.heartbeat import RUNNING, Owner, heartbeat_seconds, owners, write_owner
from tasks.leftovers import ENDED, ship_ended, ship_leftovers
from tasks.locks import boot_id, hold
from tasks.memory import how_to_need_less, killed_for_memory
from tasks.run_journal import RunJournal, journals_in, last_step
from tasks.store import Store

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

CRASHED = "crashed"
"""State of a pipeline run, and of a stage in its record, whose process was killed."""

FORGET_SECONDS = 7 * 86400.0
"""After this long Prefect is no longer told: where its server lived in the run, it is gone too."""

_log = logging.getLogger(__name__)


def reap(store: Path) -> list[Owner]:
    """No run of a dead process says that it runs; returns those that said so until now.

    Prefect is told at once where a server is configured, else by the next run, which has one.
    """
    dead = end_dead_runs(store)
    if dead:
        ship_leftovers(store)
    if os.environ.get("PREFECT_API_URL"):
        report_crashes(store)
    return dead


def end_dead_runs(store: Path) -> list[Owner]:
    """The store has what dead processes ran as crashed; MLflow and Prefect hear of it later."""
    if not (store / RUNNING).is_dir():
        return []
    try:
        with hold(store / "locks" / "reap.lock"):
            dead = [_end(store, path, owner) for path, owner in _gone(store)]
    except StorageError:  # another process is at it
        return []
    for owner in dead:
        what = f"stage {owner.stage}" if owner.stage else "the pipeline"
        _log.warning("%s of run %s was killed: %s", what, owner.run_id, owner.reaped)
    return dead


@contextmanager
def reaping(store: Path) -> Iterator[None]:
    """Reaps every heartbeat, in a thread, while the block runs; what MLflow missed is sent then."""
    done = threading.Event()
    seconds = heartbeat_seconds()
    gone: set[Path] = set()

    def again() -> None:
        while True:
            reap(store)
            ship_ended(store, ENDED, gone)
            if done.wait(seconds):
                return

    thread = threading.Thread(target=again, name="reaper", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()


def report_crashes(store: Path) -> None:
    """Prefect has the flow runs and task runs of reaped pipelines and stages as crashed.

    It must be called where Prefect has an API: a server, or inside a flow.
    """
    reaped = [(path, owner) for path, owner in owners(store) if owner.reaped]
    if not reaped:
        return
    import httpx
    from prefect.client.orchestration import get_client

    live = {owner.prefect_flow_run for _, owner in owners(store) if not owner.reaped}
    try:
        with get_client(sync_client=True) as client:
            for path, owner in reaped:
                if owner.prefect_flow_run not in live:
                    _crash_in_prefect(client, owner)
                path.unlink(missing_ok=True)
    except (httpx.HTTPError, OSError) as error:
        _log.warning("Prefect could not be told of killed runs, and will be later: %s", error)


def _gone(store: Path) -> Iterator[tuple[Path, Owner]]:
    now = time.time()
    for path, owner in owners(store):
        if owner.reaped:
            if now - owner.beat > FORGET_SECONDS:
                path.unlink(missing_ok=True)
        elif owner.is_gone(now):
            yield path, owner


def _end(store: Path, path: Path, owner: Owner) -> Owner:
    """The run is over in the store and in its journal; a kill in between, and it is done again."""
    reason = _reason(store, owner)
    if owner.run_id is not None:
        _end_in_record(Store(store), owner.run_id, owner.stage, reason)
    for journal in journals_in(store / owner.journal):
        _end_in_journal(journal, "KILLED" if owner.stage is None else "FAILED", reason)
    reaped = replace(owner, reaped=reason)
    if owner.prefect_flow_run is None:
        path.unlink(missing_ok=True)
    else:
        write_owner(path, reaped)
    return reaped


def _reason(store: Path, owner: Owner) -> str:
    """Which process is gone, where it was, and whether it was killed for its memory."""
    process = f"process {owner.process.pid} of host {owner.process.host}"
    place = ""
    if owner.stage is not None:
        steps = [last_step(path) for path in journals_in(store / owner.journal)[:1]]
        place = f" in stage {owner.stage} after step {steps[0] if steps else 0}"
    heard = datetime.fromtimestamp(owner.beat, UTC).isoformat(timespec="seconds")
    reason = f"{process} ended without a word{place}; it was last heard of at {heard}"
    here = (owner.process.host, owner.process.boot_id) == (socket.gethostname(), boot_id())
    for_memory = killed_for_memory(owner.memory) if here else None
    if for_memory is None:
        return reason
    return f"{reason}. Out of memory: {for_memory}. {how_to_need_less(owner.stage, None)}"


def _end_in_record(store: Store, run_id: str, stage: str | None, reason: str) -> None:
    try:
        record = store.read_run(run_id)
    except ArtifactError:  # killed before it was written, or damaged
        return
    for name, facts in record["stages"].items():
        if facts["state"] == "running" and stage in (None, name):
            facts["state"] = CRASHED
    if record["state"] == "running" and stage is None:
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        record |= {"state": CRASHED, "failure": reason, "ended_at": ended}
    store.write_run(run_id, record)


def _end_in_journal(path: Path, status: str, reason: str) -> None:
    """The journal says how its run ended, unless it did, or another process goes on with it."""
    try:
        journal = RunJournal(path)
    except (BlockingIOError, FileNotFoundError):
        return
    if journal.status is None and journal.openings:
        journal.end_run(status, {"orphan.reason": reason})
    journal.close()


def _crash_in_prefect(client: "SyncPrefectClient", owner: Owner) -> None:
    """Flow run and running task runs are crashed, unless they ended or began again since."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.objects import State
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    flow_run_id = UUID(owner.prefect_flow_run)
    try:
        flow_run = client.read_flow_run(flow_run_id)
    except ObjectNotFound:
        return
    if flow_run.run_count > owner.prefect_run_count:
        return
    crashed: State[None] = Crashed(message=owner.reaped)
    if flow_run.state is not None and flow_run.state.is_running():
        client.set_flow_run_state(flow_run_id, crashed, force=True)
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    for task_run in client.read_task_runs(flow_run_filter=of_run):
        if task_run.state is not None and task_run.state.is_running():
            client.set_task_run_state(task_run.id, crashed, force=True)
