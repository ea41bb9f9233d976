"""The record of a run: what a stage reported, in a file that equal runs write alike."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rlhf_core.report import Report

HISTORY = "history.jsonl"

NOT_RECORDED = frozenset({"progress", "tokens_per_second"})
"""Metrics that are reported and not recorded: how far a stage is, and what varies between equal
runs."""


class Recording:
    """A report that also appends each call to a file, but for the metrics in NOT_RECORDED.

    A number that is not finite is recorded as null, which JSON can hold.
    """

    def __init__(self, file: BinaryIO, report: Report) -> None:
        self._file = file
        self._report = report

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        kept = {
            name: value if math.isfinite(value) else None
            for name, value in metrics.items()
            if name not in NOT_RECORDED
        }
        if kept:
            self._file.write((json.dumps({"step": step, **kept}) + "\n").encode())
        self._report(step, metrics)

    def content(self) -> bytes:
        """The bytes recorded so far."""
        self._file.seek(0)
        return self._file.read()

    def go_on_from(self, content: bytes) -> None:
        """What was recorded is replaced by `content`, which was recorded up to a checkpoint."""
        self._file.seek(0)
        self._file.truncate()
        self._file.write(content)


@contextmanager
def recorded(folder: Path, report: Report) -> Iterator[Recording]:
    """A report that also writes `history.jsonl` in `folder`."""
    with (folder / HISTORY).open("wb+") as file:
        yield Recording(file, report)


def read_history(folder: Path) -> list[dict[str, float | None]]:
    """Every recorded report of an artifact, in order; `step` is among its numbers."""
    lines = (folder / HISTORY).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
