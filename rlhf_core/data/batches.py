"""A batch of rows, and what is computed once for all of it: bytes, hashes, who beats whom."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from rlhf_core.data.rows import Row

MAX_ROWS = 4096
MAX_CHARACTERS = 2 * 2**20
"""Of the texts of one batch, unless a single row has more."""

Hashes = NDArray[np.uint64]
"""[n, 2]: 128 bits each."""

_MIX = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))
_SHIFT = np.uint64(32)

_SHORT_RANKING = 16
"""Responses of a ranking of which all comparisons are looked at one by one."""


class Wins(NamedTuple):
    """Comparisons: `better` was preferred to `worse`, each named by a hash of its text."""

    row: NDArray[np.int64]
    """Place of the row in its batch."""

    better: Hashes
    worse: Hashes
    near: NDArray[np.bool_]
    """Whether none of the row's ranks lies between; in short rankings always."""


class RowBatch:
    """Some rows of one table in the order in which they were read, each with its number.

    Numbers count all raw rows of the table from 0, also those that could not be read.
    """

    def __init__(self, numbers: Sequence[int], rows: Sequence[Row]) -> None:
        self.numbers = np.array(numbers, dtype=np.uint32)
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def prompts(self) -> "Texts":
        """The prompts."""
        return Texts([row.prompt for row in self.rows])

    @cached_property
    def responses(self) -> "Texts":
        """The responses of all rows, one after the other."""
        return Texts([response for row in self.rows for response in row.responses])

    @cached_property
    def response_counts(self) -> NDArray[np.int64]:
        """How many responses each row has."""
        return np.array([len(row.responses) for row in self.rows], dtype=np.int64)

    @cached_property
    def ranks(self) -> NDArray[np.int64]:
        """The rank of each response; 0 where the row prefers nothing."""
        ranks = chain.from_iterable(row.ranks or (0,) * len(row.responses) for row in self.rows)
        return np.fromiter(ranks, dtype=np.int64, count=int(self.response_counts.sum()))

    @cached_property
    def prompt_hashes(self) -> Hashes:
        """One for each row."""
        return self.prompts.hashes

    @cached_property
    def response_hashes(self) -> Hashes:
        """One for each response."""
        return self.responses.hashes

    @cached_property
    def contents(self) -> Hashes:
        """Equal for rows of equal prompt and equal responses with equal ranks, in any order."""
        ends = np.cumsum(self.response_counts)
        ranked = mixed(self.response_hashes + self.ranks.astype(np.uint64)[:, None])
        sums = np.zeros((len(ranked) + 1, 2), dtype=np.uint64)
        np.cumsum(ranked, axis=0, out=sums[1:])
        return mixed(mixed(self.prompt_hashes) + sums[ends] - sums[ends - self.response_counts])

    @cached_property
    def wins(self) -> Wins:
        """Every comparison that the ranks of a row imply, but of a text with itself."""
        found = [*self._wins()]
        if not found:
            none = np.zeros((0, 2), dtype=np.uint64)
            return Wins(np.zeros(0, dtype=np.int64), none, none, np.zeros(0, dtype=np.bool_))
        return Wins(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def _wins(self) -> Iterator[Wins]:
        starts = np.cumsum(self.response_counts) - self.response_counts
        for size in np.unique(self.response_counts):
            rows = np.flatnonzero(self.response_counts == size)
            at_once = max(1, 2**20 // int(size * size + 1))
            for first in range(0, len(rows) if size > 1 else 0, at_once):
                some = rows[first : first + at_once]
                places = starts[some][:, None] + np.arange(size)  # [row, response]
                one, other = (places[:, side].ravel() for side in np.triu_indices(size, 1))
                ahead = self.ranks[one] < self.ranks[other]
                better, worse = np.where(ahead, one, other), np.where(ahead, other, one)
                hashes = self.response_hashes
                differ = (self.ranks[one] != self.ranks[other]) & (
                    (hashes[one] != hashes[other]).any(axis=1)
                )
                row = np.repeat(some, len(one) // len(some))
                near = np.ones(len(one), dtype=np.bool_)
                if size > _SHORT_RANKING:
                    levels = _levels(self.ranks[places])
                    pairs = (levels[:, side].ravel() for side in np.triu_indices(size, 1))
                    near = np.abs(np.subtract(*pairs)) == 1
                yield Wins(row[differ], hashes[better[differ]], hashes[worse[differ]], near[differ])


def _levels(ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """[row, response]: the place of each rank among the distinct ones of its row."""
    return np.array([np.unique(row, return_inverse=True)[1] for row in ranks], dtype=np.int64)


def mixed(hashes: Hashes) -> Hashes:
    """Each half's bits spread over all of it (the finalizer of MurmurHash3)."""
    spread = (hashes ^ (hashes >> _SHIFT)) * _MIX[0]
    spread = (spread ^ (spread >> _SHIFT)) * _MIX[1]
    return spread ^ (spread >> _SHIFT)


class Texts:
    """Some texts as UTF-8; half a character pair, which has no UTF-8, as three bytes."""

    def __init__(self, texts: Sequence[str]) -> None:
        try:
            self._encoded = [text.encode() for text in texts]
        except UnicodeEncodeError:
            self._encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        self.texts = texts

    def __len__(self) -> int:
        return len(self._encoded)

    @cached_property
    def joined(self) -> bytes:
        """All bytes, one text after the other, and then two that belong to none."""
        return b"".join((*self._encoded, b"\0\0"))

    @cached_property
    def data(self) -> NDArray[np.uint8]:
        """`joined` as numbers."""
        return np.frombuffer(self.joined, dtype=np.uint8)

    @cached_property
    def offsets(self) -> NDArray[np.int32]:
        """Where each text begins, and where the last one ends."""
        lengths = np.fromiter(map(len, self._encoded), dtype=np.int32, count=len(self))
        return np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])

    @cached_property
    def hashes(self) -> Hashes:
        """One for each text."""
        digests = b"".join(map(xxhash.xxh3_128_digest, self._encoded))
        return np.frombuffer(digests, dtype="<u8").reshape(-1, 2)
