"""What lies in a store, what refers to it, and the removal of what nothing refers to."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_core.artifacts import open_artifact
from rlhf_core.errors import ArtifactError, StorageError
from rlhf_core.folders import remove_folder
from rlhf_core.records import read_record
from tasks.heartbeat import RUNNING, read_owner
from tasks.leftovers import unshipped
from tasks.locks import hold, is_held
from tasks.store import JOURNAL, PUBLISHING, WORK, Store

HALF_WRITTEN_SECONDS = 3600.0
"""A file under a temporary name is given up after this long; writing one takes seconds."""

SECONDS_PER_DAY = 86_400.0


class StoredArtifact(NamedTuple):
    """One object of the store."""

    digest: str
    stage: str
    """`damaged` where its manifest cannot be read or files are missing."""

    bytes: int
    age_seconds: float
    commits: tuple[str, ...]
    """Keys of the commits that made it."""

    used_by: tuple[str, ...]
    """Keys of the commits that were made from it."""

    runs: tuple[str, ...]
    """Pipeline runs that made or reused it."""


class Garbage(NamedTuple):
    """One thing that nothing refers to."""

    path: Path
    reason: str
    bytes: int


@dataclass(frozen=True)
class _References:
    commits: dict[str, list[str]]
    used_by: dict[str, list[str]]
    runs: dict[str, list[str]]


def list_artifacts(store: Store) -> list[StoredArtifact]:
    """Every object, the youngest first."""
    references = _read_references(store)
    now = time.time()
    found = []
    for folder in _objects(store):
        try:
            stage: str = open_artifact(folder).stage
        except ArtifactError:
            stage = "damaged"
        found.append(
            StoredArtifact(
                folder.name,
                stage,
                bytes_below(folder),
                now - folder.stat().st_mtime,
                tuple(references.commits.get(folder.name, ())),
                tuple(references.used_by.get(folder.name, ())),
                tuple(references.runs.get(folder.name, ())),
            )
        )
    return sorted(found, key=lambda artifact: artifact.age_seconds)


def disk_usage(store: Store) -> dict[str, int]:
    """Bytes of each part of the store, and of its artifacts by stage."""
    parts = {
        path.name: bytes_below(path)
        for path in sorted(store.folder.iterdir() if store.folder.is_dir() else ())
        if path.name != store.objects.name
    }
    by_stage: dict[str, int] = {}
    for artifact in list_artifacts(store):
        name = f"{store.objects.name}: {artifact.stage}"
        by_stage[name] = by_stage.get(name, 0) + artifact.bytes
    return by_stage | parts


def find_garbage(store: Store, *, stale_days: float) -> list[Garbage]:
    """What nothing refers to and nobody works on; see `collect_garbage`.

    Artifacts that no commit made or was made from; what was half written; records of results that
    were never committed; locks whose holder is gone; and work that nobody holds and that was not
    touched for `stale_days`, its checkpoints included, unless its journal holds what the MLflow of
    the environment has not heard.
    """
    references = _read_references(store)
    known = references.commits.keys() | references.used_by.keys()
    found = [
        Garbage(folder, "no commit refers to it", bytes_below(folder))
        for folder in _objects(store)
        if folder.name not in known
    ]
    for folder in (store.objects, store.commits, store.runs):
        found += [
            Garbage(path, "half written", bytes_below(path))
            for path in _entries(folder)
            if path.name.startswith(".") and _age(path) > HALF_WRITTEN_SECONDS
        ]
    for path in _entries(store.stages):
        committed = (store.commits / f"{path.name}.json").exists()
        if not committed and not is_held(store.lock(path.name)):
            found.append(Garbage(path, "names no committed result", bytes_below(path)))
    owed = {path.parent for path in unshipped(store.folder)}
    for path in _entries(store.folder / WORK):
        stale = _age(path) > stale_days * SECONDS_PER_DAY
        if stale and not is_held(store.lock(path.name)) and path / JOURNAL not in owed:
            found.append(Garbage(path, f"untouched for {stale_days:g} days", bytes_below(path)))
    for path in _entries(store.folder / RUNNING):
        if read_owner(path) is None and _age(path) > HALF_WRITTEN_SECONDS:
            found.append(Garbage(path, "damaged, or half written", bytes_below(path)))
    for path in _entries(store.locks):
        if path.stem != PUBLISHING and not is_held(path):
            found.append(Garbage(path, "its holder is gone", bytes_below(path)))
    return found


def collect_garbage(store: Store, *, stale_days: float) -> list[Garbage]:
    """Remove what nothing refers to; returns what was removed.

    No artifact is published meanwhile: between its rename and its commit it would look unused.
    """
    removed = []
    with hold(store.lock(PUBLISHING)):
        for item in find_garbage(store, stale_days=stale_days):
            is_lock = item.path.parent == store.locks
            try:
                with hold(item.path if is_lock else store.lock(item.path.name)):
                    if not is_lock:  # a lock's file goes as it is given back
                        remove_folder(item.path)
            except StorageError:
                continue  # somebody has begun to work on it
            removed.append(item)
    return removed


def bytes_below(path: Path) -> int:
    """Size of a file, or of all files below a folder; what vanishes meanwhile counts nothing."""
    paths = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    total = 0
    for found in paths:
        try:
            if not found.is_dir():
                total += found.lstat().st_size
        except FileNotFoundError:
            continue
    return total


def _read_references(store: Store) -> _References:
    """Which commits and runs speak of which digest; a commit that cannot be read is refused."""
    references = _References({}, {}, {})
    for path in _entries(store.commits):
        if path.suffix != ".json" or path.name.startswith("."):
            continue
        commit = _read(path)
        references.commits.setdefault(commit["digest"], []).append(path.stem)
        for record in commit.get("inputs", {}).values():
            references.used_by.setdefault(record["digest"], []).append(path.stem)
    for run in store.run_records():
        for facts in run["stages"].values():
            if "digest" in facts:
                references.runs.setdefault(facts["digest"], []).append(run["run_id"])
    return references


def _read(path: Path) -> dict[str, Any]:
    try:
        commit = read_record(path)
        commit["digest"]
        {made["digest"] for made in commit.get("inputs", {}).values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            f"{path} is damaged ({type(error).__name__}: {error}): which artifact it refers to is "
            "not known, so nothing is removed. Run its recipe again, which writes it anew, or "
            "remove it."
        ) from error
    return commit


def _objects(store: Store) -> Iterator[Path]:
    return (path for path in _entries(store.objects) if not path.name.startswith("."))


def _entries(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.iterdir())) if folder.is_dir() else iter(())


def _age(path: Path) -> float:
    """Seconds since anything in it was written."""
    times = [path.lstat().st_mtime]
    if path.is_dir():
        times += [found.lstat().st_mtime for found in path.rglob("*")]
    return time.time() - max(times)
