"""What length alone would predict: whether the longer response wins, and how often (R, length).

A reward model that scores no better than this has learnt length, so it is said before training.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

LIMIT = 0.65
"""A rule that looks at length alone and is surely right more often than this is worth a warning."""

MIN_ROWS = 30
"""Fewer rows say nothing about a source."""

MAX_RESPONSES = 64
"""Further responses of one row are not compared."""

SHOWN_SOURCES = 50

_NORMAL_95 = 1.959964


class Compared(NamedTuple):
    """Lengths of one row's responses and their ranks, 1 for the best."""

    source: str
    file: str
    lengths: tuple[int, ...]
    ranks: tuple[int, ...]


class Prediction(NamedTuple):
    """Comparisons of some rows, and the shares that length predicts."""

    file: str
    """Where the first of the rows stands."""

    rows: int
    comparisons: int
    longer_wins: float
    """Share that the longer response wins; equal lengths count half."""

    low: float
    high: float
    """95 % interval of that share (Wilson's, over rows: comparisons of one row hang together)."""

    mean_difference: float
    median_difference: float
    """Of the better response's length minus the worse one's."""

    share_longer: float
    """Share of comparisons in which the better response is longer, without the ties."""

    def document(self) -> dict[str, object]:
        """The same as JSON values, with the opposite rule beside."""
        return {
            "rows": self.rows,
            "comparisons": self.comparisons,
            "longer_wins": _interval(self.longer_wins, self.low, self.high),
            "shorter_wins": _interval(1 - self.longer_wins, 1 - self.high, 1 - self.low),
            "chosen_minus_rejected": {
                "mean": round(self.mean_difference, 3),
                "median": round(self.median_difference, 3),
            },
            "chosen_is_longer_share": round(self.share_longer, 4),
            "beyond_limit": self.beyond_the_limit is not None,
        }

    @property
    def beyond_the_limit(self) -> str | None:
        """Which rule of length alone is surely right more often than `LIMIT`, in words."""
        if self.rows < MIN_ROWS:
            return None
        if self.low > LIMIT:
            share = self.longer_wins, self.low, self.high
            return "the longer response wins {:.1%} ({:.1%} to {:.1%})".format(*share)
        if 1 - self.high > LIMIT:
            share = 1 - self.longer_wins, 1 - self.high, 1 - self.low
            return "the shorter response wins {:.1%} ({:.1%} to {:.1%})".format(*share)
        return None


def predictions(rows: Sequence[Compared]) -> Mapping[str, Prediction]:
    """The prediction for each of the sources with the most rows, in their order."""
    by_source: dict[str, list[Compared]] = defaultdict(list)
    for row in rows:
        by_source[row.source].append(row)
    largest = sorted(by_source, key=lambda source: (-len(by_source[source]), source))
    found = {source: prediction(by_source[source]) for source in largest[:SHOWN_SOURCES]}
    return {source: of for source, of in found.items() if of is not None}


def prediction(rows: Sequence[Compared]) -> Prediction | None:
    """What length predicts of all comparisons of the rows; None where they compare nothing."""
    differences: list[int] = []
    means: list[float] = []
    for row in rows:
        ranked = list(zip(row.lengths, row.ranks, strict=True))[:MAX_RESPONSES]
        of_row = [
            better_length - worse_length
            for better_length, better in ranked
            for worse_length, worse in ranked
            if better < worse
        ]
        if of_row:
            differences.extend(of_row)
            means.append(sum(map(_won_by_longer, of_row)) / len(of_row))
    if not differences:
        return None
    found = np.array(differences)
    share = float(np.mean([_won_by_longer(difference) for difference in differences]))
    low, high = _wilson(float(np.mean(means)), len(means))
    shift = share - float(np.mean(means))
    return Prediction(
        file=min(row.file for row in rows),
        rows=len(means),
        comparisons=len(differences),
        longer_wins=share,
        low=max(0.0, low + shift),
        high=min(1.0, high + shift),
        mean_difference=float(found.mean()),
        median_difference=float(np.median(found)),
        share_longer=float((found > 0).mean()),
    )


def longer_wins_accuracy(
    responses: Sequence[Sequence[str]], ranks: Sequence[Sequence[int]]
) -> float:
    """Share of comparisons that the response of more words wins; equal lengths count half."""
    wins, comparisons = longer_wins(responses, ranks)
    return wins / comparisons if comparisons else float("nan")


class LongerWins(NamedTuple):
    """Comparisons that the response of more words wins, of how many; equal lengths count half."""

    wins: float
    comparisons: int


def longer_wins(responses: Sequence[Sequence[str]], ranks: Sequence[Sequence[int]]) -> LongerWins:
    """How often the response of more words is the better one."""
    wins, comparisons = 0.0, 0
    for texts, places in zip(responses, ranks, strict=True):
        lengths = [len(text.split()) for text in texts]
        ranked = list(zip(lengths, places, strict=True))[:MAX_RESPONSES]
        for better_length, better in ranked:
            for worse_length, worse in ranked:
                if better < worse:
                    comparisons += 1
                    wins += _won_by_longer(better_length - worse_length)
    return LongerWins(wins, comparisons)


def _won_by_longer(difference: int) -> float:
    return 0.5 + 0.5 * ((difference > 0) - (difference < 0))


def _wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `count` independent cases."""
    z_squared = _NORMAL_95**2
    middle = (share + z_squared / (2 * count)) / (1 + z_squared / count)
    spread = math.sqrt(share * (1 - share) / count + z_squared / (4 * count**2))
    half = _NORMAL_95 * spread / (1 + z_squared / count)
    return middle - half, middle + half


def _interval(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": round(mean, 4), "low": round(low, 4), "high": round(high, 4)}
