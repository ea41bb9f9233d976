"""Rows of equal content, however far apart they stand."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlhf_core.data.batches import Hashes
from rlhf_core.data.row_sets import RowSet
from rlhf_core.data.spills import Records, Spill, by_hash

_RECORD = [("high", "<u8"), ("low", "<u8"), ("number", "<u4")]


class Repeats(NamedTuple):
    """Rows that say what an earlier one said, each beside the first that did."""

    number: NDArray[np.uint32]
    first: NDArray[np.uint32]


class RepeatFinder:
    """Finds the rows whose 128-bit hash an earlier row had."""

    def __init__(self, folder: Path, name: str) -> None:
        self._spill = Spill(folder, name, _RECORD, by_hash("high"))

    def add(self, numbers: NDArray[np.uint32], hashes: Hashes) -> None:
        """These rows have these hashes."""
        records = np.empty(len(numbers), dtype=_RECORD)
        records["high"], records["low"] = hashes[:, 0], hashes[:, 1]
        records["number"] = numbers
        self._spill.add(records)

    def repeats(self, among: RowSet | None = None) -> Iterator[Repeats]:
        """Part by part; where `among` is given, other rows count as absent."""
        for part in self._spill.parts():
            records = part if among is None else part[among.has(part["number"])]
            records, group = grouped(records)
            if not len(records):
                continue
            starts = np.flatnonzero(np.diff(group, prepend=-1))
            first = np.minimum.reduceat(records["number"], starts)[group]
            later = records["number"] != first
            yield Repeats(records["number"][later], first[later])

    def remove(self) -> None:
        """Free the disk."""
        self._spill.remove()


def grouped(records: Records) -> tuple[Records, NDArray[np.int64]]:
    """The records sorted by `high` and `low`, and the number of each one's group of equal hash."""
    order = np.argsort(records["high"], kind="stable")
    high, low = records["high"][order], records["low"][order]
    same = high[1:] == high[:-1]
    if (same & (low[1:] != low[:-1])).any():
        order = np.lexsort((records["low"], records["high"]))
        high, low = records["high"][order], records["low"][order]
        same = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
    group = np.concatenate([[0], np.cumsum(~same)]) if len(records) else np.zeros(0, np.int64)
    return records[order], group
