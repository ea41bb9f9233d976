"""The staged rows of every side, written as its table, and what is measured of them on the way."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa

from rlhf_core.data.length_baseline import longer_wins
from rlhf_core.data.row_sets import RowSet
from rlhf_core.data.schemas import TableName
from rlhf_core.data.sides import Moves, Side, Sides
from rlhf_core.data.spills import LineSpill
from rlhf_core.data.staging import StagedRows
from rlhf_core.tables import TableWriter

_ROWS_PER_PART = 2**14

_MEASURED = frozenset(
    {
        *(("prompts", "train"), ("demonstrations", "train"), ("preferences", "train")),
        ("preferences", "validation"),
    }
)


def write_sides(
    sides: Sides, staged: Mapping[TableName, StagedRows], folder: Path, *, scratch: Path
) -> dict[str, float]:
    """`folder` holds the table of every side; gives mean lengths and the length-only baseline."""
    with ExitStack() as stack:
        for table, splits in sides.tables.items():
            for split, side in splits.items():
                writer = stack.enter_context(TableWriter(folder, table, split))
                if side.origin in staged:
                    for batch in _rows_of(staged[side.origin], side, scratch):
                        columns = [_column(batch, name) for name in writer.schema.names]
                        writer.add(pa.Table.from_arrays(columns, schema=writer.schema))
    return measured_sides(sides, staged)


def measured_sides(sides: Sides, staged: Mapping[TableName, StagedRows]) -> dict[str, float]:
    """Mean lengths of the training sides, and the length-only baseline of the validation side."""
    measured = _Measured()
    columns = ("number", "prompt", "responses", "ranks")
    for origin, rows in staged.items():
        for batch in rows.batches(columns):
            numbers = batch.column("number").to_numpy()
            for table, splits in sides.tables.items():
                for split, side in splits.items():
                    if side.origin == origin and (table, split) in _MEASURED:
                        chosen = pa.array(side.rows.has(numbers))
                        measured.add(table, split, batch.filter(chosen))
    return measured.metrics()


def _rows_of(rows: StagedRows, side: Side, scratch: Path) -> Iterator[pa.RecordBatch]:
    if side.moves is not None:
        yield from _in_their_places(rows, side.rows, side.moves, scratch)
        return
    for batch in rows.batches():
        chosen = side.rows.has(batch.column("number").to_numpy())
        if chosen.any():
            yield batch.filter(pa.array(chosen))


def _in_their_places(
    rows: StagedRows, chosen: RowSet, moves: Moves, scratch: Path
) -> Iterator[pa.RecordBatch]:
    """The chosen rows in the order of their places; those that move wait on disk."""
    waiting = LineSpill(scratch, "moved")
    for part in moves.parts():
        moved = part[chosen.has(part["number"])]
        places = dict(zip(moved["number"].tolist(), moved["place"].tolist(), strict=True))
        for batch in rows.rows_at(moved["number"].astype(np.int64)):
            for row in batch.to_pylist():
                place = places[row["number"]]
                waiting.add(place // _ROWS_PER_PART, json.dumps([place, row]))
    unmoved = chosen - moves.rows
    held: list[tuple[int, dict[str, object]]] = []
    parts = waiting.parts()
    for batch in rows.batches():
        numbers = batch.column("number").to_numpy()
        end = int(numbers[-1]) + 1
        while parts and parts[0] * _ROWS_PER_PART < end:
            held += map(json.loads, waiting.lines(parts.pop(0)))
        stays = unmoved.has(numbers)
        here = [(place, row) for place, row in held if place < end]
        held = [(place, row) for place, row in held if place >= end]
        own = batch.filter(pa.array(stays))
        there = pa.RecordBatch.from_pylist([row for _, row in here], schema=own.schema)
        order = np.argsort([*numbers[stays].tolist(), *(place for place, _ in here)])
        yield pa.concat_batches([own, there]).take(pa.array(order, type=pa.int64()))
    waiting.remove()


def _column(rows: pa.RecordBatch, name: str) -> pa.Array:
    if name in ("response", "reference"):
        return _best(rows)
    return rows.column("prompt" if name == "text" else name)


def _best(rows: pa.RecordBatch) -> pa.Array:
    """Of each row the first response of the lowest rank, or its only one, or null."""
    responses = rows.column("responses")
    counts = responses.value_lengths().to_numpy()
    ranks = rows.column("ranks").flatten().to_numpy()
    starts = np.cumsum(counts) - counts
    best = starts.copy()
    if len(ranks):  # then every row has ranks
        lowest = np.minimum.reduceat(ranks, starts)
        of_row = np.repeat(np.arange(len(counts)), counts)
        is_lowest = np.flatnonzero(ranks == lowest[of_row])
        best[of_row[is_lowest[::-1]]] = is_lowest[::-1]
    return responses.flatten().take(pa.array(best, mask=counts == 0))


class _Measured:
    """Mean words of training rows, and how often the longer of two validation responses won."""

    def __init__(self) -> None:
        self._words: Counter[str] = Counter()
        self._texts: Counter[str] = Counter()
        self._wins, self._comparisons = 0.0, 0

    def add(self, table: TableName, split: str, rows: pa.RecordBatch) -> None:
        """Some rows of one side, as they were staged."""
        if split == "validation":
            columns = (rows.column(name).to_pylist() for name in ("responses", "ranks"))
            wins, comparisons = longer_wins(*columns)
            self._wins += wins
            self._comparisons += comparisons
            return
        texts = {
            "prompts": lambda: rows.column("prompt"),
            "demonstrations": lambda: _best(rows),
            "preferences": lambda: rows.column("responses").flatten(),
        }[table]().to_pylist()
        self._words[table] += sum(len(text.split()) for text in texts)
        self._texts[table] += len(texts)

    def metrics(self) -> dict[str, float]:
        """By name; nothing of what there is none."""
        found = {
            f"{table.removesuffix('s')}_words": self._words[table] / count
            for table, count in self._texts.items()
            if count
        }
        if self._comparisons:
            found["longer_wins_accuracy"] = self._wins / self._comparisons
        return found
