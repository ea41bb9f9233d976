"""An even sample of the rows that stream by, the same for the same rows, of bounded size."""

from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from rlhf_core.data.rows import Row

Kept = TypeVar("Kept")

_GOLDEN = 0x9E3779B97F4A7C15
"""2**64 over the golden ratio: its multiples spread evenly (Fibonacci hashing)."""


class RowSample(Generic[Kept]):
    """Keeps something of every row until there are too many, then of every second one, and so on.

    A row is in by a hash of its place, so no order or period of the rows can bias it.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._below = 2**64
        self._kept: dict[int, Kept] = {}

    def tickets(self, rows: Sequence[Row]) -> NDArray[np.uint64]:
        """With which `keep` takes what belongs to each of the rows."""
        files = {row.file for row in rows}
        starts = {
            file: xxhash.xxh64_intdigest(file.encode(errors="surrogatepass")) for file in files
        }
        start = np.array([starts[row.file] for row in rows], dtype=np.uint64)
        lines = np.array([row.line for row in rows], dtype=np.uint64)
        return start + lines * np.uint64(_GOLDEN)

    def drawn(self, tickets: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of the rows are drawn."""
        return tickets <= np.uint64(self._below - 1)

    def keep(self, ticket: int, kept: Kept) -> None:
        """Keep it where the row is drawn; where the sample is full, half of it goes."""
        if ticket >= self._below:
            return
        self._kept[ticket] = kept
        while len(self._kept) > self._size:
            self._below //= 2
            self._kept = {drawn: of for drawn, of in self._kept.items() if drawn < self._below}

    def everything(self) -> list[Kept]:
        """What was kept, in the order of the draw."""
        return [self._kept[drawn] for drawn in sorted(self._kept)]
