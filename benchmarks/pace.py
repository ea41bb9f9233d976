"""How fast a stage trains while a server is there and while it is away, in one run."""

import os
import time
from pathlib import Path
from typing import Literal

from tasks.journal import read_records

LOOK_SECONDS = 0.25

Server = Literal["there", "away"]

_UTIME = 13  # of /proc/PID/task/TID/stat, counted from 0; the next is time in the kernel


class Pace:
    """Steps against the clock, and against the processor time of the thread that trains.

    The second is what other programs of a busy machine do not change.
    """

    def __init__(self, pid: int, journal: Path) -> None:
        self._stat = Path(f"/proc/{pid}/task/{pid}/stat")
        self._journal = journal
        self._offset = 0
        self._step = 0
        self._stepped_at = 0.0
        self._spans: dict[Server, list[tuple[int, float, float]]] = {"there": [], "away": []}
        self._longest: dict[Server, float] = {"there": 0.0, "away": 0.0}

    def watch(self, seconds: float, server: Server) -> None:
        """Follow the journal for so long, while the server is there or away."""
        step, cpu, since = self._look(server), self._cpu(), time.monotonic()
        while time.monotonic() < since + seconds:
            time.sleep(LOOK_SECONDS)
            self._look(server)
        span = (self._step - step, time.monotonic() - since, self._cpu() - cpu)
        self._spans[server].append(span)

    def summary(self) -> str:
        """Speed with the server away against speed with it there, and the longest steps."""
        wall = self._speed("away", 1) / self._speed("there", 1)
        cpu = self._speed("away", 2) / self._speed("there", 2)
        return (
            f"{self._speed('there', 1):.1f} steps/s with the server, {self._speed('away', 1):.1f} "
            f"without: ratio {wall:.3f} by the clock, {cpu:.3f} by processor time; longest step "
            f"{self._longest['there']:.2f} s and {self._longest['away']:.2f} s"
        )

    def _speed(self, server: Server, column: int) -> float:
        spans = self._spans[server]
        return sum(span[0] for span in spans) / sum(span[column] for span in spans)

    def _look(self, server: Server) -> int:
        """The last step that the journal has; the time between two is noted."""
        for placed in read_records(self._journal, self._offset):
            self._offset = placed.end
            if placed.record["kind"] != "metrics":
                continue
            now = placed.record["time"] / 1000
            if self._stepped_at:
                self._longest[server] = max(self._longest[server], now - self._stepped_at)
            self._step, self._stepped_at = placed.record["step"], now
        return self._step

    def _cpu(self) -> float:
        """Seconds of processor time that the training thread has used."""
        fields = self._stat.read_text().rpartition(")")[2].split()
        ticks = int(fields[_UTIME - 2]) + int(fields[_UTIME - 1])
        return ticks / os.sysconf("SC_CLK_TCK")
