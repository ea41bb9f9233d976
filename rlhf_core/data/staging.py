"""Rows that may be used, on disk until it is known which of them are and on which side they stand.

They are kept column by column, so that the tables are cut out of them without a Python object for
each row.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rlhf_core.data.batches import RowBatch, Texts
from rlhf_core.tables import SCHEMAS

SCHEMA = pa.schema([("number", pa.uint32()), *SCHEMAS["preferences"]])


@contextmanager
def memory_given_back() -> Iterator[None]:
    """Arrow takes memory from the system meanwhile: its own allocator keeps what it once had."""
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


class StagedRows:
    """Rows in the order in which they were read; written once, then read any number of times."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{name}-rows.arrow"
        self._writer = pa.ipc.new_file(
            str(self._path), SCHEMA, options=pa.ipc.IpcWriteOptions(compression="lz4")
        )
        self._last: list[int] = []
        self.count = 0

    def add(self, batch: RowBatch, kept: NDArray[np.bool_]) -> None:
        """Stage the rows of the batch that `kept` says."""
        places = np.flatnonzero(kept)
        if not len(places):
            return
        columns = _columns(batch)
        staged = pa.record_batch(columns, schema=SCHEMA)
        if len(places) < len(batch):
            staged = staged.take(pa.array(places))
        self._writer.write_batch(staged)
        self._last.append(int(batch.numbers[places[-1]]))
        self.count += len(places)

    def close(self) -> None:
        """Nothing more is added."""
        self._writer.close()

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows batch by batch, all columns or the named ones."""
        fields = None if columns is None else sorted(SCHEMA.names.index(name) for name in columns)
        options = pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
        with pa.OSFile(str(self._path)) as file:
            reader = pa.ipc.open_file(file, options=options)
            for place in range(reader.num_record_batches):
                yield reader.get_batch(place)

    def rows_at(self, numbers: NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
        """The rows of these ascending numbers that are staged; other batches are not read."""
        with pa.OSFile(str(self._path)) as file:
            reader = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(use_threads=False))
            of_batch = np.searchsorted(np.array(self._last, dtype=np.int64), numbers)
            for place in np.unique(of_batch[of_batch < len(self._last)]):
                batch = reader.get_batch(int(place))
                wanted = np.isin(batch.column("number").to_numpy(), numbers[of_batch == place])
                yield batch.filter(pa.array(wanted))

    def remove(self) -> None:
        """Free the disk."""
        self._path.unlink(missing_ok=True)


def _columns(batch: RowBatch) -> list[pa.Array]:
    rows = batch.rows
    starts = pa.array(np.concatenate([[0], np.cumsum(batch.response_counts)]), type=pa.int32())
    ranked = np.array([len(row.ranks) for row in rows], dtype=np.int64)
    rank_starts = pa.array(np.concatenate([[0], np.cumsum(ranked)]), type=pa.int32())
    ranks = batch.ranks[np.repeat(ranked > 0, batch.response_counts)]
    return [
        pa.array(batch.numbers),
        _strings(batch.prompts),
        pa.ListArray.from_arrays(starts, _strings(batch.responses)),
        pa.ListArray.from_arrays(rank_starts, pa.array(ranks, type=pa.int64())),
        pa.array([row.source for row in rows], type=pa.string()),
        pa.array([row.group for row in rows], type=pa.string()),
        pa.array([row.margin for row in rows], type=pa.float64()),
        pa.array([row.confidence for row in rows], type=pa.string()),
        pa.array([row.file for row in rows], type=pa.string()),
        pa.array([row.line for row in rows], type=pa.int64()),
    ]


def _strings(texts: Texts) -> pa.Array:
    """The texts as one array; what is not UTF-8 in them stands only in rows that are not kept."""
    buffers = pa.py_buffer(texts.offsets), pa.py_buffer(texts.joined)
    return pa.StringArray.from_buffers(len(texts), *buffers)
