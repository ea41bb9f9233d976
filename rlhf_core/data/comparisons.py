"""Comparisons of one group, joined to the one ranking that says the same."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import NamedTuple

from rlhf_core.data.batches import MAX_ROWS, RowBatch
from rlhf_core.data.faults import Fault
from rlhf_core.data.numbered import NumberedFault
from rlhf_core.data.rows import Row
from rlhf_core.data.spills import LineSpill, hash_part

_ROWS_PER_PART = 2**14


class NumberedRow(NamedTuple):
    """A row and its number."""

    number: int
    row: Row


class JoinedRows(NamedTuple):
    """Rankings, and the pairs of groups that are none; a fault for each such group."""

    rows: list[NumberedRow]
    faults: list[NumberedFault]


class JoinedBatch(NamedTuple):
    """Joined rows in the order of their numbers, and the faults of groups among them."""

    rows: RowBatch
    faults: list[NumberedFault]


class RankingJoiner:
    """Joins the comparisons of each group of a table, however far apart they stand."""

    def __init__(self, folder: Path, name: str) -> None:
        self._grouped = LineSpill(folder, f"{name}-grouped")
        self._joined = LineSpill(folder, f"{name}-joined")
        self._faults = LineSpill(folder, f"{name}-ungrouped")

    def add(self, batch: RowBatch) -> None:
        """The batch's rows belong to the table too."""
        groups = batch.prompt_hashes[:, 0].tolist()
        for number, prompt, row in zip(batch.numbers.tolist(), groups, batch.rows, strict=True):
            if row.group:
                self._grouped.add(hash_part(prompt), _line(number, row))
            else:
                self._joined.add(number // _ROWS_PER_PART, _line(number, row))

    def joined(self) -> Iterator[JoinedBatch]:
        """All rows; a ranking stands in the place of the first of its comparisons."""
        for part in self._grouped.parts():
            rows, faults = join_rankings([_numbered(line) for line in self._grouped.lines(part)])
            for number, row in rows:
                self._joined.add(number // _ROWS_PER_PART, _line(number, row))
            for number, fault in faults:
                self._faults.add(number // _ROWS_PER_PART, json.dumps([number, *fault]))
        self._grouped.remove()
        for part in self._joined.parts():
            rows = sorted(_numbered(line) for line in self._joined.lines(part))
            entries = [json.loads(line) for line in self._faults.lines(part)]
            faults = [NumberedFault(entry[0], Fault(*entry[1:])) for entry in entries]
            for start in range(0, len(rows), MAX_ROWS):
                some = rows[start : start + MAX_ROWS]
                numbers = [number for number, _ in some]
                yield JoinedBatch(RowBatch(numbers, [row for _, row in some]), faults)
                faults = []
        self._joined.remove()
        self._faults.remove()


def join_rankings(rows: Sequence[NumberedRow]) -> JoinedRows:
    """Pairs of one group and prompt become one ranking, in the place of the first of them.

    A group is a ranking when each comparison follows from its ranks and each difference of ranks is
    one of its comparisons; two responses that were never compared must then be tied. Pairs that
    differ in margin or confidence stay pairs.
    """
    joined: list[NumberedRow] = []
    faults: list[NumberedFault] = []
    groups: dict[tuple[str, str], list[NumberedRow]] = {}
    for numbered in rows:
        row = numbered.row
        group = row.group or f"ungrouped {numbered.number}"
        groups.setdefault((group, row.prompt), []).append(numbered)
    for members in groups.values():
        pairs = [row for _, row in members]
        if len(pairs) == 1 or len({(pair.margin, pair.confidence) for pair in pairs}) > 1:
            joined.extend(members)
            continue
        ranking = _ranking(pairs)
        number, first = members[0]
        if ranking is None:
            seen = f"{len(pairs)} comparisons from here on are not those of one ranking"
            fault = Fault("PREF-008", first.file, first.line, "group", seen)
            faults.append(NumberedFault(number, fault))
            joined.extend(members)
        else:
            joined.append(NumberedRow(number, ranking))
    return JoinedRows(joined, faults)


def _ranking(pairs: Sequence[Row]) -> Row | None:
    wins = {
        (pair.responses[pair.ranks.index(1)], pair.responses[pair.ranks.index(2)])
        for pair in pairs
        if sorted(pair.ranks) == [1, 2]
    }
    responses = tuple(dict.fromkeys(text for pair in pairs for text in pair.responses))
    beaten_by = {text: sum(worse == text for _, worse in wins) for text in responses}
    ranks = {text: beaten_by[text] + 1 for text in responses}
    implied = {(a, b) for a in responses for b in responses if ranks[a] < ranks[b]}
    if implied != wins or len(wins) < len(pairs):
        return None
    return replace(pairs[0], responses=responses, ranks=tuple(ranks[text] for text in responses))


def _line(number: int, row: Row) -> str:
    return json.dumps([number, *astuple(row)])


def _numbered(line: str) -> NumberedRow:
    number, prompt, responses, ranks, *rest = json.loads(line)
    return NumberedRow(number, Row(prompt, tuple(responses), tuple(ranks), *rest))
