"""What ends a stage from outside told in a sentence: no memory, or a disk that failed."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf_core.errors import ArtifactError, MemoryExhausted, StorageError
from rlhf_core.folders import system_faults_told
from tasks.handles import StageJob
from tasks.memory import how_to_need_less, memory_now, ran_out_of_memory
from tasks.store import Store
from tasks.tracking import TrackedRun

_log = logging.getLogger(__name__)

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


@contextmanager
def memory_faults_named(job: StageJob, run: TrackedRun) -> Iterator[None]:
    """Where memory runs out within, the error names stage and step, and what needs less."""
    try:
        yield
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        memory = memory_now()
        sizes = f"it uses {memory.used:,} bytes" if memory.used else "what it uses is not known"
        if memory.limit is not None:
            sizes += f" and may have {memory.limit:,}"
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise MemoryExhausted(
            f"Stage '{job.stage}' ran out of memory at step {run.last_step + 1} ({words[0]}); "
            f"{sizes}. {how_to_need_less(job.stage, job.settings[job.stage])}"
        ) from error


@contextmanager
def storage_faults_named(store: Store) -> Iterator[None]:
    """A full or failing disk, or files taken away, within are an error that names the store."""
    try:
        with system_faults_told():
            yield
    except OSError as error:
        if error.errno in _GONE and _is_below(error.filename, store.folder):
            raise StorageError(
                f"{error.filename} is not there ({error.strerror}): something was removed from the "
                f"store {store.folder} while it was in use. Leave that to `rlhf store gc`, and run "
                "the same command again: what is still there is used, the rest made anew."
            ) from error
        if error.errno not in _FULL_DISK:
            raise
        raise StorageError(
            f"The store {store.folder} cannot be written: {error.strerror} "
            f"({error.filename or 'no file named'}). Free space or choose another folder with "
            "--store; what was published before is kept."
        ) from error


@contextmanager
def later_faults_logged() -> Iterator[None]:
    """While an error is on its way, what else the disk refuses is a line of the log."""
    try:
        yield
    except (OSError, ArtifactError) as error:
        _log.warning("how the run ended is not in its record: %s", error)


def _is_below(name: object, folder: Path) -> bool:
    return isinstance(name, str | Path) and Path(name).is_relative_to(folder)
