"""The staged rows of every side, written as its table, and what is measured of them on the way."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlhf_core.data.length_baseline import longer_wins
from rlhf_core.data.schemas import TableName
from rlhf_core.data.sides import Side, Sides
from rlhf_core.data.spills import LineSpill
from rlhf_core.data.staging import StagedRows
from rlhf_core.tables import TableWriter

_ROWS_PER_PART = 2**14

_MEAN_WORDS: Mapping[TableName, tuple[str, str]] = {
    "prompts": ("prompt_words", "prompt"),
    "demonstrations": ("demonstration_words", "response"),
    "preferences": ("preference_words", "responses"),
}
"""Of training rows: the metric, and the column whose words it counts."""


def write_sides(
    sides: Sides, staged: Mapping[TableName, StagedRows], folder: Path, *, scratch: Path
) -> dict[str, float]:
    """`folder` holds the table of every side; gives mean lengths and the length-only baseline."""
    measured = _Measured()
    for table, splits in sides.tables.items():
        for split, side in splits.items():
            with TableWriter(folder, table, split) as writer:
                for rows in rows_of(side, staged, writer.schema, scratch):
                    writer.add(rows)
                    measured.add(table, split, rows)
    return measured.metrics()


def rows_of(
    side: Side, staged: Mapping[TableName, StagedRows], schema: pa.Schema, scratch: Path
) -> Iterator[pa.Table]:
    """The rows of one side under the schema of its table, batch by batch."""
    if side.origin not in staged or not side.rows.any():
        return
    origin = staged[side.origin]
    rows = _chosen(origin, side) if side.places is None else _moved(origin, side, scratch)
    for batch in rows:
        columns = [_column(batch, name) for name in schema.names]
        yield pa.Table.from_arrays(columns, schema=schema)


def _chosen(origin: StagedRows, side: Side) -> Iterator[pa.RecordBatch]:
    for batch in origin.batches():
        chosen = side.rows[batch.column("number").to_numpy()]
        if chosen.any():
            yield batch.filter(pa.array(chosen))


def _moved(origin: StagedRows, side: Side, scratch: Path) -> Iterator[pa.RecordBatch]:
    """The rows of a side in the order of their places; those of another place wait on disk."""
    places = np.arange(0, dtype=np.uint32) if side.places is None else side.places
    waiting = LineSpill(scratch, "moved")
    for batch in _chosen(origin, side):
        numbers = batch.column("number").to_numpy()
        for row in batch.filter(pa.array(places[numbers] != numbers)).to_pylist():
            place = int(places[row["number"]])
            waiting.add(place // _ROWS_PER_PART, json.dumps([place, row]))
    held: list[tuple[int, dict[str, object]]] = []
    parts = waiting.parts()
    for batch in origin.batches():
        numbers = batch.column("number").to_numpy()
        end = int(numbers[-1]) + 1
        while parts and parts[0] * _ROWS_PER_PART < end:
            held += map(json.loads, waiting.lines(parts.pop(0)))
        chosen = side.rows[numbers] & (places[numbers] == numbers)
        here = [(place, row) for place, row in held if place < end]
        held = [(place, row) for place, row in held if place >= end]
        own = batch.filter(pa.array(chosen))
        there = pa.RecordBatch.from_pylist([row for _, row in here], schema=own.schema)
        order = np.argsort([*numbers[chosen].tolist(), *(place for place, _ in here)])
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

    def add(self, table: TableName, split: str, rows: pa.Table) -> None:
        """Some rows of one side."""
        if split == "train" and table in _MEAN_WORDS:
            metric, name = _MEAN_WORDS[table]
            column = rows.column(name)
            texts = pc.list_flatten(column) if name == "responses" else column
            self._words[metric] += sum(len(text.split()) for text in texts.to_pylist())
            self._texts[metric] += len(texts)
        if split == "validation" and table == "preferences":
            columns = (rows.column(name).to_pylist() for name in ("responses", "ranks"))
            wins, comparisons = longer_wins(*columns)
            self._wins += wins
            self._comparisons += comparisons

    def metrics(self) -> dict[str, float]:
        """By name; nothing of what there is none."""
        found = {name: self._words[name] / count for name, count in self._texts.items()}
        if self._comparisons:
            found["longer_wins_accuracy"] = self._wins / self._comparisons
        return found
