"""What ends a stage from outside told in a sentence: no memory, or a disk that failed."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from rlhf_core.errors import MemoryExhausted, StorageError
from rlhf_core.folders import system_faults_told
from tasks.handles import StageJob
from tasks.memory import how_to_need_less, memory_now, ran_out_of_memory
from tasks.store import Store
from tasks.tracking import TrackedRun

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


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
    """A full or failing disk within is an error that names the store."""
    try:
        with system_faults_told():
            yield
    except OSError as error:
        if error.errno not in _FULL_DISK:
            raise
        raise StorageError(
            f"The store {store.folder} cannot be written: {error.strerror} "
            f"({error.filename or 'no file named'}). Free space or choose another folder with "
            "--store; what was published before is kept."
        ) from error
