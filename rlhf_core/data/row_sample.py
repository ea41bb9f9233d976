"""An even sample of the rows that stream by, the same for the same rows, of bounded size."""

from typing import Generic, TypeVar

import xxhash

from rlhf_core.data.rows import Row

Kept = TypeVar("Kept")

_ALL = 2**64
_GOLDEN = 0x9E3779B97F4A7C15
"""2**64 over the golden ratio: its multiples spread evenly (Fibonacci hashing)."""


class RowSample(Generic[Kept]):
    """Keeps something of every row until there are too many, then of every second one, and so on.

    A row is in by a hash of its place, so no order or period of the rows can bias it.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._below = _ALL
        self._kept: dict[int, Kept] = {}
        self._file, self._start = "", 0

    def ticket(self, row: Row) -> int | None:
        """With which `keep` takes what belongs to the row; None where the row is not drawn."""
        if row.file != self._file:
            self._file = row.file
            self._start = xxhash.xxh64_intdigest(row.file.encode(errors="surrogatepass"))
        drawn = (self._start + row.line * _GOLDEN) % _ALL
        return drawn if drawn < self._below else None

    def keep(self, ticket: int, kept: Kept) -> None:
        """Keep it; where the sample is full, half of it goes."""
        self._kept[ticket] = kept
        while len(self._kept) > self._size:
            self._below //= 2
            self._kept = {drawn: of for drawn, of in self._kept.items() if drawn < self._below}

    def everything(self) -> list[Kept]:
        """What was kept, in the order of the draw."""
        return [self._kept[drawn] for drawn in sorted(self._kept)]
