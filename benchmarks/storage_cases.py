"""The command on a store of its own under faults, and the cases that need no trace.

`benchmarks.storage_faults` runs them.
"""

import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks.children import RECIPE, SMALL
from benchmarks.command_kills import journals_kept, outcome
from benchmarks.servers import RLHF
from rlhf_core.artifacts import publish_artifact, verify_artifact
from rlhf_core.errors import StorageError
from tasks.store import CHECKPOINTS, WORK, Store

OVERRIDES = (*SMALL, "last_stage=sft", "sft.epochs=1", "sft.samples=0")
HANGS_AFTER_SECONDS = 600.0
LONGEST_PATH = 250
MANY_FILES = 10_000
LARGE_BYTES = 3 * 10**9


@dataclass(frozen=True)
class Trial:
    """What became of one store."""

    what: str
    hit: str
    """Files of the store for which a call failed."""

    outcome: str
    """`same`, `refused well`, `refused badly`, `silent` or `hang`."""

    exit_code: int | None
    seconds: float
    said: str
    """The last line of the command, or what differs."""


def start(store: Path, api: str, strace: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """The command on the store, with its words in a file beside it."""
    overrides = [part for override in OVERRIDES for part in ("--set", override)]
    command = [sys.executable, "-c", RLHF, "run", str(RECIPE), *overrides, "--store", str(store)]
    with store.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [*strace, *command],
            env=os.environ
            | {"OMP_NUM_THREADS": "1", "RLHF_CHECKPOINT_SECONDS": "0", "PREFECT_API_URL": api},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wait(command: subprocess.Popen[bytes]) -> int | None:
    """The exit code; None where it hangs."""
    with command:
        try:
            return command.wait(HANGS_AFTER_SECONDS)
        except subprocess.TimeoutExpired:
            command.kill()
            return None


def judge(store: Path, api: str, code: int | None, right: Mapping[str, str]) -> tuple[str, str]:
    """How the command ended, and the words for it, after another run where not all was done."""
    log = store.with_suffix(".log").read_text(errors="replace")
    last = next((line for line in reversed(log.splitlines()) if line.startswith("rlhf: ")), "")
    if code is None:
        return "hang", ""
    later = not code and bool(differences(right, outcome(store)))
    if code or later:
        again = wait(start(store, api))
        if again is None:
            return "hang", "the run afterwards hangs"
        if again:
            return "refused badly", f"the run afterwards ended with {again}"
    differing = differences(right, outcome(store))
    if differing:
        return "silent", "; ".join(differing)
    # Where the log itself could not be written, Python says so with a traceback, rightly.
    is_crash = "Traceback (most recent call last)" in log and "--- Logging error ---" not in log
    is_told = code == StorageError.exit_code and str(store) in last
    if code and (is_crash or not is_told):
        return "refused badly", last or log[-300:]
    if code:
        return "refused well", last
    return "same", "MLflow had all of it after the next start" if later else ""


def differences(right: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """What is otherwise than in the undisturbed run."""
    return [
        f"{name}: {found.get(name)} in the place of {right.get(name)}"
        for name in sorted(right.keys() | found.keys())
        if right.get(name) != found.get(name)
    ]


def locked(folder: Path, api: str, right: Mapping[str, str], seconds: float | None) -> Trial:
    """MLflow's file is locked once training has saved its state; None: until the command ends."""
    store = folder / f"locked-{seconds}"
    began = time.monotonic()
    with journals_kept(store):
        command = start(store, api)
        while command.poll() is None and not [*store.glob(f"{WORK}/sft-*/{CHECKPOINTS}/step-*")]:
            time.sleep(0.05)
        was_running = command.poll() is None
        with closing(sqlite3.connect(store / "mlflow.db", timeout=60)) as outside:
            outside.execute("BEGIN EXCLUSIVE")
            if seconds is None:
                code = wait(command)
            else:
                time.sleep(seconds)
        ended = time.monotonic() - began
        code = wait(command) if seconds is not None else code
        missing = differences(right, outcome(store))
        again = wait(start(store, api)) if code == 0 else None
        how, said = judge(store, api, code, right)
    said = said or f"{len(missing)} series were missing before the next start, which gave {again}"
    what = f"MLflow's file locked {'for ever' if seconds is None else f'{seconds:.0f} s'}"
    hit = "mlflow.db" if was_running else "nothing"
    return Trial(what, hit, how, code, round(ended, 1), said)


def long_path(folder: Path, api: str, right: Mapping[str, str]) -> Trial:
    """A store whose path has 250 characters."""
    parent = folder
    while len(str(parent)) < LONGEST_PATH - 60:
        parent = parent / ("long name " * 4).strip()
    store = parent / ("s" * (LONGEST_PATH - len(str(parent)) - 1))
    parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with journals_kept(store):
        code = wait(start(store, api))
        seconds = time.monotonic() - began
        how, said = judge(store, api, code, right)
    return Trial(
        f"a path of {len(str(store))} characters", "store", how, code, round(seconds, 1), said
    )


def published(folder: Path, name: str, write: Callable[[Path], object]) -> Trial:
    """A payload of unusual size, published and verified."""
    payload = folder / name / "payload"
    payload.mkdir(parents=True)
    began = time.monotonic()
    write(payload)
    store = Store(folder / name / "store")
    artifact = publish_artifact(payload, store.objects, stage="data", provenance={})
    verify_artifact(artifact.path, "data")
    return Trial(name, "store", "same", 0, round(time.monotonic() - began, 1), "")


def write_many(payload: Path) -> None:
    """Ten thousand small files in a hundred folders."""
    for number in range(MANY_FILES):
        path = payload / f"part-{number % 100:02}" / f"file-{number:05}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(number))


def write_large(payload: Path) -> None:
    """One file of three gigabytes."""
    block = random.Random(1).randbytes(10**6)
    with (payload / "weights.bin").open("wb") as stream:
        for _ in range(LARGE_BYTES // len(block)):
            stream.write(block)
