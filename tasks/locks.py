"""Locks that die with their process: `flock` on a file that says who holds it.

The kernel drops the lock when the last process that has the file open ends, whatever ended it; a
child that was forked while the lock was held keeps it. Locks hold between processes of one host.
"""

import asyncio
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Self

from rlhf_core.errors import StorageError

POLL_SECONDS = 0.1
GRACE_SECONDS = 0.5
"""A lock is asked for at least this long: a look at whether it is held takes it for an instant."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_DEAD = ("Z", "X")
_START_FIELD = 21  # of /proc/PID/stat, counted from 0: clock ticks from boot to the start


@dataclass(frozen=True)
class Holder:
    """A process that can be told from any other, also after its number was given away again."""

    host: str
    boot_id: str
    pid: int
    started_ticks: int | None
    """When the process started, in clock ticks since the host did; None where nothing tells."""

    since: str
    """When it took the lock."""

    def is_alive(self) -> bool:
        """Whether the process still runs; one of another host is taken to."""
        if (self.host, self.boot_id) != (socket.gethostname(), boot_id()):
            return self.host != socket.gethostname()
        return process_start(self.pid) == self.started_ticks


def this_process() -> Holder:
    """The facts of this process, as it takes a lock now."""
    pid = os.getpid()
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return Holder(socket.gethostname(), boot_id(), pid, process_start(pid), since)


def boot_id() -> str:
    """Names the time since the host last started; empty where the system does not tell."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def process_start(pid: int) -> int | None:
    """When a process started, in clock ticks since the host did; None where none runs.

    A killed one that its parent has not yet noticed runs no more.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces
    return None if fields[0] in _DEAD else int(fields[_START_FIELD - 2])


@contextmanager
def hold(path: Path, *, wait_seconds: float = 0) -> Iterator[None]:
    """Nobody else holds the lock `path` inside the block.

    Waits at most `wait_seconds` for another holder, then raises a StorageError that names it.
    """
    lock = HeldLock.acquire(path, wait_seconds=wait_seconds)
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether any process holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_flock(descriptor, path)
    finally:
        os.close(descriptor)


class HeldLock:
    """A lock that this process holds until `release`, or until it ends."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, path: Path, *, wait_seconds: float) -> Self:
        """Take the lock, or raise a StorageError that says who holds it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + max(wait_seconds, GRACE_SECONDS)
        while True:
            lock = cls._try(path)
            if lock is not None:
                return lock
            if time.monotonic() >= deadline:
                raise StorageError(_refusal(path))
            time.sleep(POLL_SECONDS)

    @classmethod
    def _try(cls, path: Path) -> Self | None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not _try_flock(descriptor, path) or not _is_still_there(descriptor, path):
            os.close(descriptor)
            return None
        facts = json.dumps(asdict(this_process())).encode()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, facts + b"\n", 0)
        return cls(path, descriptor)

    def release(self) -> None:
        """Give the lock back; its file goes first, so that no free lock lies about."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


class StageLocks:
    """Prefect's lock manager on `flock`: its own file locks stay for ever after a kill.

    Prefect asks for a lock with no time limit and waits; here it is refused after `wait_seconds`
    with the facts of the holder.
    """

    def __init__(self, folder: Path, *, wait_seconds: float = 0) -> None:
        self._folder = folder
        self._wait_seconds = wait_seconds
        self._mutex = Lock()
        self._held: dict[str, tuple[str, HeldLock]] = {}

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self  # a copy of a policy speaks of the same locks

    def acquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,  # noqa: ARG002  # the lock ends with its process
    ) -> bool:
        """Whether `holder` has the lock now; without a time limit, a StorageError if not."""
        if self.is_lock_holder(key, holder):
            return True
        wait_seconds = self._wait_seconds if acquire_timeout is None else acquire_timeout
        try:
            lock = HeldLock.acquire(self._path(key), wait_seconds=wait_seconds)
        except StorageError:
            if acquire_timeout is None:
                raise
            return False
        with self._mutex:
            self._held[key] = (holder, lock)
        return True

    async def aacquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,
    ) -> bool:
        """`acquire_lock` beside an event loop."""
        return await asyncio.to_thread(
            self.acquire_lock, key, holder, acquire_timeout, hold_timeout
        )

    def release_lock(self, key: str, holder: str) -> None:
        """Give the lock back; a ValueError where `holder` does not have it."""
        with self._mutex:
            if not self._holds(key, holder):
                raise ValueError(f"{holder} does not hold the lock {key}.")
            _, lock = self._held.pop(key)
        lock.release()

    def is_locked(self, key: str) -> bool:
        """Whether any process holds the lock."""
        return is_held(self._path(key))

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Whether `holder`, of this process, has the lock."""
        with self._mutex:
            return self._holds(key, holder)

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait until the lock is free; False once `timeout` seconds have passed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.is_locked(key):
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """`wait_for_lock` beside an event loop."""
        return await asyncio.to_thread(self.wait_for_lock, key, timeout)

    def _holds(self, key: str, holder: str) -> bool:
        return key in self._held and self._held[key][0] == holder

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.lock"


def _try_flock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise StorageError(
            f"{path} cannot be locked ({error.strerror}): the store needs a file system with "
            "flock, which local ones have. Choose another folder with --store."
        ) from error
    return True


def _is_still_there(descriptor: int, path: Path) -> bool:
    """Whether the path still names the locked file: its former holder may just have removed it."""
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _read_holder(path: Path) -> Holder | None:
    try:
        return Holder(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _refusal(path: Path) -> str:
    holder = _read_holder(path)
    if holder is None:
        return f"{path} is held by a process that has not signed it. Try again."
    who = f"process {holder.pid} on {holder.host} since {holder.since}"
    if not holder.is_alive():
        return f"{path} was held by {who}, which is gone, but a child of it still runs. End it."
    return (
        f"{path.stem} is being made by {who}, and two may not write one result. Wait for it to "
        "end, or end it; a lock whose process is gone is free by itself."
    )
