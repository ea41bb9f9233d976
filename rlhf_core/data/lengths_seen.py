"""Lengths, counted in bins that are as many for a thousand rows as for a billion."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

EXACT = 4096
"""Shorter lengths are counted one by one; longer ones in bins that grow by a twelfth."""

_GROWTH = 2 ** (1 / 8)
_TOP = 8 * 24  # bins above EXACT: up to 2**36 characters

_DRAWN = np.unique(np.concatenate([[0], np.round(2 ** (np.arange(0, 73) / 2))]).astype(np.int64))
"""Edges of what is drawn: two bins for each doubling."""


class LengthsSeen:
    """A histogram of numbers of at least 0, with their mean, bounds and quantiles."""

    def __init__(self) -> None:
        self._exact = np.zeros(EXACT, dtype=np.int64)
        self._long = np.zeros(_TOP, dtype=np.int64)
        self._sum = 0
        self._least: int | None = None
        self._most = 0

    def add(self, lengths: Sequence[int]) -> None:
        """Count these lengths."""
        if not lengths:
            return
        found = np.asarray(lengths, dtype=np.int64)
        short = found[found < EXACT]
        self._exact += np.bincount(short, minlength=EXACT)
        long = found[found >= EXACT]
        if len(long):
            bins = np.floor(np.log(long / EXACT) / np.log(_GROWTH)).astype(np.int64)
            self._long += np.bincount(bins.clip(0, _TOP - 1), minlength=_TOP)
        self._sum += int(found.sum())
        least = int(found.min())
        self._least = least if self._least is None else min(self._least, least)
        self._most = max(self._most, int(found.max()))

    @property
    def count(self) -> int:
        """How many lengths were counted."""
        return int(self._exact.sum() + self._long.sum())

    def facts(self) -> dict[str, object]:
        """Count, mean, bounds, quantiles and what can be drawn."""
        count = self.count
        if not count:
            return {"count": 0}
        return {
            "count": count,
            "mean": round(self._sum / count, 2),
            "least": self._least,
            "median": self._quantile(0.5),
            "p95": self._quantile(0.95),
            "most": self._most,
            "histogram": self.histogram(),
        }

    def histogram(self) -> dict[str, list[int]]:
        """Counts between edges that double every second time; no empty ones outside."""
        values, weights = self._values()
        return _histogram(values, weights, _DRAWN)

    def _values(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """A length for each bin, its lower edge, and how many it holds."""
        long = np.floor(EXACT * _GROWTH ** np.arange(_TOP)).astype(np.int64)
        return (
            np.concatenate([np.arange(EXACT, dtype=np.int64), long]),
            np.concatenate([self._exact, self._long]),
        )

    def _quantile(self, share: float) -> int:
        values, weights = self._values()
        place = int(np.searchsorted(np.cumsum(weights), share * weights.sum()))
        return int(min(max(values[place], self._least or 0), self._most))


class DifferencesSeen:
    """A histogram of differences of either sign, with their mean and the share above zero."""

    def __init__(self) -> None:
        self._above, self._below = LengthsSeen(), LengthsSeen()
        self._zero = 0
        self._sum = 0

    def add(self, differences: Sequence[int]) -> None:
        """Count these differences."""
        above = [difference for difference in differences if difference > 0]
        below = [-difference for difference in differences if difference < 0]
        self._above.add(above)
        self._below.add(below)
        self._zero += len(differences) - len(above) - len(below)
        self._sum += sum(above) - sum(below)

    def facts(self) -> dict[str, object]:
        """Count, mean, shares of each sign and what can be drawn."""
        above, below = self._above.count, self._below.count
        count = above + below + self._zero
        if not count:
            return {"count": 0}
        return {
            "count": count,
            "mean": round(self._sum / count, 2),
            "share_longer": round(above / count, 4),
            "share_equal": round(self._zero / count, 4),
            "share_shorter": round(below / count, 4),
            "histogram": self._histogram(),
        }

    def _histogram(self) -> dict[str, list[int]]:
        """The bins of both sides about one that holds only zero."""
        up, down = self._above.histogram(), self._below.histogram()
        if not up["counts"]:
            up = {"edges": [1], "counts": []}
        if not down["counts"]:
            down = {"edges": [1], "counts": []}
        above, below = _from_one(up), _from_one(down)
        edges = [-edge for edge in reversed(below["edges"])] + above["edges"]
        return {
            "edges": edges,
            "counts": [*reversed(below["counts"]), self._zero, *above["counts"]],
        }


def _from_one(histogram: dict[str, list[int]]) -> dict[str, list[int]]:
    """The same with the empty bins between 1 and its first edge."""
    missing = [int(edge) for edge in _DRAWN if 1 <= edge < histogram["edges"][0]]
    return {
        "edges": [*missing, *histogram["edges"]],
        "counts": [0] * len(missing) + histogram["counts"],
    }


def _histogram(
    values: NDArray[np.int64], weights: NDArray[np.int64], edges: NDArray[np.int64]
) -> dict[str, list[int]]:
    places = np.searchsorted(edges, values, side="right") - 1
    counts = np.bincount(places.clip(0, len(edges) - 2), weights=weights, minlength=len(edges) - 1)
    filled = np.flatnonzero(counts)
    if not len(filled):
        return {"edges": [], "counts": []}
    first, last = int(filled[0]), int(filled[-1]) + 1
    return {
        "edges": [int(edge) for edge in edges[first : last + 1]],
        "counts": [int(count) for count in counts[first:last]],
    }
