"""Comparisons of one prompt against each other: the opposite was said, or they run in a circle."""

from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlhf_core.data.batches import RowBatch
from rlhf_core.data.repeats import grouped
from rlhf_core.data.spills import Records, Spill, by_hash

_RECORD = [
    ("high", "<u8"),
    ("low", "<u8"),
    ("better", "<u8"),
    ("worse", "<u8"),
    ("number", "<u4"),
    ("near", "?"),
]
"""Hashes of prompt, better and worse response; among those of one prompt, 64 bits tell apart."""

CIRCLES_NAMED = 100
"""Of each prompt."""


class Contradiction(NamedTuple):
    """A row, and the first row before it that says the opposite."""

    number: int
    earlier: int


class Circle(NamedTuple):
    """A row whose comparison closes a circle, and the rows of the others, in the circle's order."""

    number: int
    others: tuple[int, ...]


class ComparisonFinder:
    """Keeps who beats whom at which prompt, and finds what cannot all be true."""

    def __init__(self, folder: Path, name: str) -> None:
        self._spill = Spill(folder, f"{name}-wins", _RECORD, by_hash("high"))

    def add(self, batch: RowBatch) -> None:
        """The comparisons that the batch's rows make."""
        wins = batch.wins
        records = np.empty(len(wins.row), dtype=_RECORD)
        prompts = batch.prompt_hashes[wins.row]
        records["high"], records["low"] = prompts[:, 0], prompts[:, 1]
        records["better"], records["worse"] = wins.better[:, 0], wins.worse[:, 0]
        records["number"] = batch.numbers[wins.row]
        records["near"] = wins.near
        self._spill.add(records)

    def findings(self) -> Iterator[Contradiction | Circle]:
        """Every row that contradicts one before it, and every circle that is left among the rest.

        Two comparisons that contradict each other are taken out before circles are looked for, and
        of a long ranking only those of neighbours are asked.
        """
        for part in self._spill.parts():
            records, prompt = grouped(part)
            if not len(records):
                continue
            starts = np.flatnonzero(np.diff(prompt, prepend=-1))
            numbers = records["number"]
            first, last = (f.reduceat(numbers, starts) for f in (np.minimum, np.maximum))
            several = (first != last)[prompt]  # a row by itself contradicts nothing
            records, prompt = records[several], prompt[several]
            if not len(records):
                continue
            pair = _pair_numbers(records, prompt)
            opposed = yield from _contradictions(records, pair)
            asked = records["near"] & ~opposed
            yield from _circles(records[asked], prompt[asked])

    def remove(self) -> None:
        """Free the disk."""
        self._spill.remove()


def _pair_numbers(records: Records, prompt: NDArray[np.int64]) -> NDArray[np.int64]:
    """Equal for records of one prompt with the same two responses, whichever won."""
    one = np.minimum(records["better"], records["worse"])
    other = np.maximum(records["better"], records["worse"])
    order = np.lexsort((other, one, prompt))
    one, other, prompt = one[order], other[order], prompt[order]
    new = (np.diff(prompt) != 0) | (one[1:] != one[:-1]) | (other[1:] != other[:-1])
    pair = np.empty(len(records), dtype=np.int64)
    pair[order] = np.concatenate([[0], np.cumsum(new)])
    return pair


def _contradictions(
    records: Records, pair: NDArray[np.int64]
) -> Generator[Contradiction, None, NDArray[np.bool_]]:
    """Each row that contradicts an earlier one; returns which records stand against another."""
    up = records["better"] < records["worse"]
    first = np.full((int(pair.max()) + 1, 2), np.iinfo(np.int64).max)  # [pair, direction]
    numbers = records["number"].astype(np.int64)
    np.minimum.at(first, (pair, up.astype(np.int64)), numbers)
    reverse = first[pair, (~up).astype(np.int64)]
    opposed: NDArray[np.bool_] = np.maximum(first[pair, 0], first[pair, 1]) < np.iinfo(np.int64).max
    earlier: dict[int, int] = {}
    for number, against in zip(
        numbers[opposed & (reverse < numbers)].tolist(),
        reverse[opposed & (reverse < numbers)].tolist(),
        strict=True,
    ):
        earlier[number] = min(against, earlier.get(number, against))
    for number, against in earlier.items():
        yield Contradiction(number, against)
    return opposed


Edges = Mapping[int, Mapping[int, int]]
"""Better to worse to the number of the first row that says so."""


def _circles(records: Records, prompt: NDArray[np.int64]) -> Iterator[Circle]:
    records, prompt = _without_ends(records, prompt)
    order = np.lexsort((records["number"], prompt))
    records, prompt = records[order], prompt[order]
    for some in np.split(records, np.flatnonzero(np.diff(prompt)) + 1):
        wins = zip(*(some[name].tolist() for name in ("better", "worse", "number")), strict=True)
        yield from islice(_circles_of_prompt(wins), CIRCLES_NAMED)


def _circles_of_prompt(wins: Iterable[tuple[int, int, int]]) -> Iterator[Circle]:
    """A circle for each comparison that cannot be true beside those kept before it."""
    edges: defaultdict[int, dict[int, int]] = defaultdict(dict)
    beaten: set[int] = set()
    named: set[int] = set()
    for better, worse, number in wins:
        way = _way(edges, worse, better) if better in beaten else None
        if way is None:
            edges[better].setdefault(worse, number)
            beaten.add(worse)
        elif number not in named:
            named.add(number)
            yield Circle(number, way)


def _without_ends(records: Records, prompt: NDArray[np.int64]) -> tuple[Records, NDArray[np.int64]]:
    """Without comparisons whose better response nothing beats or whose worse one beats nothing.

    They are in no circle; what is left is small where comparisons agree.
    """
    while len(records):
        responses = np.concatenate([records["better"], records["worse"]])
        order = np.lexsort((responses, np.tile(prompt, 2)))
        ordered, at = responses[order], np.tile(prompt, 2)[order]
        new = (ordered[1:] != ordered[:-1]) | (at[1:] != at[:-1])
        node = np.empty(len(responses), dtype=np.int64)
        node[order] = np.concatenate([[0], np.cumsum(new)])
        better, worse = node[: len(records)], node[len(records) :]
        beaten = np.bincount(worse, minlength=len(responses)) > 0
        beats = np.bincount(better, minlength=len(responses)) > 0
        inside = beaten[better] & beats[worse]
        if inside.all():
            break
        records, prompt = records[inside], prompt[inside]
    return records, prompt


def _way(edges: Edges, start: int, end: int) -> tuple[int, ...] | None:
    """The rows on a shortest way from `start` to `end`; None where there is none."""
    came: dict[int, tuple[int, int]] = {}  # response to the one before it, and the row
    waiting = [start]
    for response in waiting:
        for worse, number in edges.get(response, {}).items():
            if worse not in came and worse != start:
                came[worse] = (response, number)
                waiting.append(worse)
        if end in came:
            rows: list[int] = []
            while end != start:
                end, number = came[end]
                rows.append(number)
            return tuple(reversed(rows))
    return None
