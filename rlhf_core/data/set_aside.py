"""The rows that are set aside, with their reasons."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_core.data.faults import Fault
from rlhf_core.data.rows import Row
from rlhf_core.data.rules import RULES
from rlhf_core.data.spills import LineSpill
from rlhf_core.data.staging import StagedRows

_ROWS_PER_PART = 2**14

Content = Mapping[str, object]


class AsideRows:
    """What stood in rows that are kept from being used, and why those set aside are."""

    def __init__(self, folder: Path, name: str) -> None:
        self._lines = LineSpill(folder, f"{name}-kept-out")
        self.reasons = folder / f"{name}-reasons"
        """Where `fault_log.settle` writes the number and the faults of each row set aside."""

    def add(self, number: int, row: Row) -> None:
        """The row cannot be used for what it is itself, so that it is not staged."""
        content = _content(row.prompt, row.responses, row.ranks)
        self._lines.add(number // _ROWS_PER_PART, json.dumps([number, content]))

    def entries(self, staged: StagedRows | None) -> Iterator[dict[str, object]]:
        """Each row set aside, in order: place, reasons, and its texts where it could be read."""
        with self.reasons.open(encoding="utf-8", newline="\n") as lines:
            reasons = map(json.loads, lines)
            for part, some in groupby(reasons, key=lambda reason: int(reason[0]) // _ROWS_PER_PART):
                found = list(some)
                contents = dict(map(json.loads, self._lines.lines(part)))
                if staged is not None:
                    contents |= _staged(staged, [entry[0] for entry in found])
                for number, faults in found:
                    yield _reasons([Fault(*fault) for fault in faults]) | contents.get(number, {})

    def remove(self) -> None:
        """Free the disk."""
        self._lines.remove()
        self.reasons.unlink(missing_ok=True)


def _reasons(faults: Sequence[Fault]) -> dict[str, object]:
    """Where the row stood, which rules it breaks, what was seen and how each is mended."""
    return {
        "file": faults[0].file,
        "line": faults[0].line,
        "rules": sorted({fault.rule for fault in faults}),
        "reasons": [
            {
                "rule": fault.rule,
                "title": RULES[fault.rule].title,
                "field": fault.field,
                "seen": fault.seen,
                "mend": RULES[fault.rule].mend,
            }
            for fault in faults
        ],
    }


def _staged(staged: StagedRows, numbers: list[int]) -> dict[int, Any]:
    return {
        row["number"]: _content(row["prompt"], row["responses"], row["ranks"])
        for batch in staged.rows_at(np.array(numbers, dtype=np.int64))
        for row in batch.select(["number", "prompt", "responses", "ranks"]).to_pylist()
    }


def _content(prompt: str, responses: object, ranks: object) -> Content:
    return {"prompt": prompt, "responses": responses, "ranks": ranks}
