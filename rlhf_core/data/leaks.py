"""Training rows whose prompt is nearly one that is held out."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlhf_core.data.batches import RowBatch
from rlhf_core.data.faults import Fault
from rlhf_core.data.places import Place
from rlhf_core.data.row_sets import Flags, RowSet
from rlhf_core.data.schemas import TableName
from rlhf_core.data.shingles import ShingleHasher, jaccard, numbers_in
from rlhf_core.data.sides import Sides
from rlhf_core.data.signatures import Signatures
from rlhf_core.data.spills import Records
from rlhf_core.data.staging import StagedRows

THRESHOLD = 0.9
"""Of the word triples of two prompts, the share that both have: a word of 55 may differ."""

MOST_PAIRS = 200_000
"""Pairs that are compared word by word; further ones are counted."""

_TABLES: tuple[TableName, ...] = ("demonstrations", "preferences", "prompts")
_MADE = {("demonstrations", "preferences")}
"""Best responses of training pairs, split once more: no prompt is new on either side."""

_SHOWN = ("prompt", "file", "line")
_COMPARED_AT_ONCE = 20_000


class Leak(NamedTuple):
    """A training row, by table and number, and the fault that its prompt is."""

    table: TableName
    number: int
    fault: Fault


class _Prompt(NamedTuple):
    text: str
    place: Place


class LeakFinder:
    """Remembers every prompt, and finds those that stand on both sides of a split but for a word.

    Prompts that are equal but for case and white space stand on one side already where rows are
    split by prompt. Where they are split by another column, equal ones are found here too.
    """

    def __init__(self, folder: Path) -> None:
        self._signatures = Signatures(folder)
        self._named: set[tuple[int, int]] = set()
        self.compared = 0
        self.candidates = 0
        """Pairs that were compared word by word, of how many that might say the same."""

    def add(self, table: TableName, batch: RowBatch, kept: Flags) -> None:
        """The batch's rows that may be used."""
        if table in _TABLES:
            rows = zip(batch.rows, kept.tolist(), strict=True)
            prompts = [row.prompt for row, is_kept in rows if is_kept]
            if prompts:
                self._signatures.add(_TABLES.index(table), batch.numbers[kept], prompts)

    def leaks(self, sides: Sides, staged: Mapping[TableName, StagedRows]) -> Iterator[Leak]:
        """One for each training row whose prompt is nearly a held-out one."""
        training = _rows_on(sides, "train")
        evaluation, validation = _rows_on(sides, "evaluation"), _rows_on(sides, "validation")
        held_out = [one | other for one, other in zip(evaluation, validation, strict=True)]
        waiting: list[Records] = []
        count = 0
        for pairs in self._signatures.pairs(
            lambda table, numbers: training[table].has(numbers),
            lambda table, numbers: held_out[table].has(numbers),
        ):
            self.candidates += len(pairs)
            some = pairs[: MOST_PAIRS - self.compared - count]
            waiting.append(some)
            count += len(some)
            if count >= _COMPARED_AT_ONCE:
                yield from self._leaks(np.concatenate(waiting), evaluation, staged)
                waiting, count = [], 0
        if count:
            yield from self._leaks(np.concatenate(waiting), evaluation, staged)

    def facts(self) -> dict[str, object]:
        """How many pairs were compared, of how many that might say the same."""
        return {
            "threshold": THRESHOLD,
            "candidates": self.candidates,
            "compared": self.compared,
            "found": len(self._named),
        }

    def remove(self) -> None:
        """Free the disk."""
        self._signatures.remove()

    def _leaks(
        self, pairs: Records, evaluation: Sequence[RowSet], staged: Mapping[TableName, StagedRows]
    ) -> Iterator[Leak]:
        self.compared += len(pairs)
        ours = _prompts(pairs["table"], pairs["number"], staged)
        theirs = _prompts(pairs["held_table"], pairs["held_number"], staged)
        for number, table, held_number, held_table in np.sort(pairs).tolist():
            prompt, held = ours[table, number], theirs[held_table, held_number]
            share = _alike(prompt.text, held.text) if (table, number) not in self._named else 0.0
            if share < THRESHOLD:
                continue
            self._named.add((table, number))
            asks = evaluation[held_table].has(np.array([held_number], dtype=np.uint32))[0]
            rule, side = ("LEAK-001", "evaluation") if asks else ("LEAK-002", "validation")
            seen = f"{share:.0%} of its word triples are those of {side} prompt {held.place}"
            fault = Fault(rule, prompt.place.file, prompt.place.line, "prompt", seen)
            yield Leak(_TABLES[table], number, fault)


def _rows_on(sides: Sides, split: str) -> list[RowSet]:
    """Of each table the rows that stand on such a side of it, or of the prompts made of it."""
    found = [RowSet() for _ in _TABLES]
    for table, splits in sides.tables.items():
        side = splits.get(split)
        if side is not None and side.origin in _TABLES and (table, side.origin) not in _MADE:
            place = _TABLES.index(side.origin)
            found[place] = found[place] | side.rows
    return found


def _prompts(
    tables: Records, numbers: Records, staged: Mapping[TableName, StagedRows]
) -> dict[tuple[int, int], _Prompt]:
    found = {}
    for table in np.unique(tables).tolist():
        wanted = np.unique(numbers[tables == table]).astype(np.int64)
        for batch in staged[_TABLES[table]].rows_at(wanted):
            columns = (batch.column(name).to_pylist() for name in ("number", *_SHOWN))
            for number, prompt, file, line in zip(*columns, strict=True):
                found[table, number] = _Prompt(prompt, Place(file, line))
    return found


def _alike(one: str, other: str) -> float:
    """The share of word triples that two prompts have in common; 0 where their numbers differ."""
    if numbers_in(one) != numbers_in(other):
        return 0.0
    shingles = ShingleHasher().shingles([one, other])
    return jaccard(shingles.of(0), shingles.of(1))
