"""The record of a run: what a stage reported, in a file that equal runs write alike."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rlhf_core.report import Report

HISTORY = "history.jsonl"

NOT_RECORDED = frozenset({"progress", "tokens_per_second"})
"""Metrics that are reported and not recorded: how far a stage is, and what varies between equal
runs."""


@contextmanager
def recorded(folder: Path, report: Report) -> Iterator[Report]:
    """A report that also appends each call to `history.jsonl` in `folder`, but for some metrics.

    A number that is not finite is recorded as null, which JSON can hold.
    """
    with (folder / HISTORY).open("w", encoding="utf-8", newline="\n") as file:

        def record(step: int, metrics: Mapping[str, float]) -> None:
            kept = {
                name: value if math.isfinite(value) else None
                for name, value in metrics.items()
                if name not in NOT_RECORDED
            }
            if kept:
                file.write(json.dumps({"step": step, **kept}) + "\n")
            report(step, metrics)

        yield record


def read_history(folder: Path) -> list[dict[str, float | None]]:
    """Every recorded report of an artifact, in order; `step` is among its numbers."""
    lines = (folder / HISTORY).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
