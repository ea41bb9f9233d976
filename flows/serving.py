"""Prefect's runner, ending as a run of ours does: whoever trains saves its state first."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from prefect.runner import Runner

SAVE_SECONDS = 10.0
"""How long the runs under way have to save their state and end."""

POLL_SECONDS = 0.1


class SavingRunner(Runner):
    """Runs deployments; asked to end, it first asks its runs to, and waits for them.

    Prefect's own answer to SIGTERM kills them: it stops the runner by a coroutine that nobody
    awaits. Its child processes that are `spared` are left alone.
    """

    def __init__(self, spared: Set[int]) -> None:
        super().__init__(pause_on_shutdown=True)
        self.signum = 0
        """The signal that ended it."""
        self._spared = spared

    def handle_sigterm(self, *arguments: Any, **_: Any) -> None:
        """Take SIGTERM, or SIGINT, as the end of all runs, then of the runner."""
        self.signum = arguments[0] if arguments else signal.SIGTERM
        end_children(self._spared)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # tells each task that is cancelled
        raise KeyboardInterrupt


def run_until_stopped(runner: SavingRunner) -> int:
    """Run what is due until a signal comes, and return it."""
    signal.signal(signal.SIGINT, runner.handle_sigterm)
    try:
        asyncio.run(runner.start())
    except KeyboardInterrupt:
        return runner.signum or signal.SIGINT
    return runner.signum


def end_children(spared: Set[int]) -> None:
    """Ask every child of this process to end, and wait until they have, but not for ever."""
    waiting = set(_children()) - spared
    for pid in waiting:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + SAVE_SECONDS
    while any(_runs(pid) for pid in waiting) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _children() -> Iterator[int]:
    for thread in Path("/proc/self/task").glob("*/children"):
        yield from map(int, thread.read_text().split())


def _runs(pid: int) -> bool:
    """Whether the process is there and not merely waiting to be asked how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
