"""The staged rows of every side, written as its table, and what is measured of them on the way."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlhf_core.data.length_baseline import longer_wins
from rlhf_core.data.row_sets import RowSet
from rlhf_core.data.schemas import TableName
from rlhf_core.data.sides import Moves, Side, Sides
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
    with ExitStack() as stack:
        outputs: dict[TableName, list[_Output]] = {}
        for table, splits in sides.tables.items():
            for split, side in splits.items():
                writer = stack.enter_context(TableWriter(folder, table, split))
                output = _Output(table, split, side, writer, measured)
                outputs.setdefault(side.origin, []).append(output)
        for origin, rows in staged.items():
            _write(rows, outputs.get(origin, []), scratch)
    return measured.metrics()


@dataclass(frozen=True, slots=True)
class _Output:
    table: TableName
    split: str
    side: Side
    writer: TableWriter
    measured: "_Measured"

    def add(self, rows: pa.RecordBatch) -> None:
        """The next rows of this side, as they were staged."""
        schema = self.writer.schema
        columns = [_column(rows, name) for name in schema.names]
        written = pa.Table.from_arrays(columns, schema=schema)
        self.writer.add(written)
        self.measured.add(self.table, self.split, written)


def _write(rows: StagedRows, outputs: list[_Output], scratch: Path) -> None:
    in_order = [output for output in outputs if output.side.moves is None]
    for batch in rows.batches():
        numbers = batch.column("number").to_numpy()
        for output in in_order:
            chosen = output.side.rows.has(numbers)
            if chosen.any():
                output.add(batch.filter(pa.array(chosen)))
    for output in outputs:
        if output.side.moves is not None:
            for batch in _in_their_places(rows, output.side.rows, output.side.moves, scratch):
                output.add(batch)


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
