"""Rows of a Parquet file, a few at a time, so that no row group has to fit into memory."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rlhf_core.data.faults import Fault
from rlhf_core.data.parquet_pages import PageSizes, page_sizes
from rlhf_core.data.physical_lines import MAX_ROW_BYTES
from rlhf_core.data.raw_rows import RawRow
from rlhf_core.data.shown_text import shown_key, visible

_BATCH_BYTES = 4 * 2**20
_LARGEST_PAGE = 128 * 2**20
"""Writers make pages of 1 MiB, DuckDB of up to 100 MB."""

_MOST_BYTES = 64 * 2**20
_MOST_ROWS = 64
"""At 64 rows a batch costs hardly more than at 1024, and a column of long values stays small."""


def parquet_rows(name: str, path: Path) -> Iterator[RawRow | Fault]:
    """Each row in order, numbered from 1; the last thing is a fault where the file is damaged."""
    number = 0
    try:
        with pq.ParquetFile(
            path, pre_buffer=False, buffer_size=2**16, page_checksum_verification=True
        ) as file:
            twice = _column_that_stands_twice(file.schema_arrow)
            if twice is not None:
                yield Fault("JSON-002", name, 1, shown_key(twice), "the column stands twice")
                return
            if file.metadata.num_rows == 0:
                yield Fault("DATA-001", name, 1, "", "a Parquet file of 0 rows")
                return
            for batch in _batches(file, path):
                yield from _rows(name, number, batch)
                number += batch.num_rows
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        said = visible(" ".join(str(error).split())[:300])
        seen = f"row {number + 1} cannot be read: the file is damaged or cut off ({said})"
        yield Fault("DATA-003", name, number + 1, "", seen)


def _column_that_stands_twice(schema: pa.Schema) -> str | None:
    names = list(schema.names)
    return next((name for name in names if names.count(name) > 1), None)


def _batches(file: pq.ParquetFile, path: Path) -> Iterator[pa.RecordBatch]:
    """All rows, in batches of few bytes as far as means and pages tell."""
    with path.open("rb") as opened:
        sizes = page_sizes(opened)
        for place in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(place)
            row_bytes = max(1, group.total_byte_size // max(1, group.num_rows))
            pages = next(sizes, PageSizes(0, 0))
            if pages.page > _LARGEST_PAGE:
                raise ValueError(
                    f"a page of row group {place + 1} says that it has {pages.page:,} bytes, more "
                    f"than {_LARGEST_PAGE:,}; a file that is whole can be written again with pages "
                    "of 1 MiB"
                )
            size = min(
                _BATCH_BYTES // row_bytes, _MOST_BYTES // max(1, pages.dictionary), _MOST_ROWS
            )
            yield from file.iter_batches(max(1, size), row_groups=[place], use_threads=False)


def _rows(name: str, before: int, batch: pa.RecordBatch) -> Iterator[RawRow | Fault]:
    if batch.nbytes <= MAX_ROW_BYTES:
        try:
            whole = batch.to_pylist()
        except UnicodeDecodeError:
            whole = None
        if whole is not None:
            for number, fields in enumerate(whole, start=before + 1):
                yield RawRow(name, number, fields)
            return
    for place in range(batch.num_rows):
        yield _row(name, before + place + 1, batch.slice(place, 1))


def _row(name: str, number: int, single: pa.RecordBatch) -> RawRow | Fault:
    """One row by itself: it may be too large, or hold a text that is not UTF-8."""
    if single.nbytes > MAX_ROW_BYTES:
        return Fault("SIZE-001", name, number, "", f"over {MAX_ROW_BYTES:,} bytes in one row")
    fields: dict[str, object] = {}
    for column, values in zip(single.schema.names, single.columns, strict=True):
        try:
            (fields[column],) = values.to_pylist()
        except UnicodeDecodeError as error:
            seen = (
                f"byte 0x{error.object[error.start]:02x} at offset {error.start} of the value, "
                "expected UTF-8: write the file again from its source"
            )
            return Fault("ENC-001", name, number, shown_key(column), seen)
    return RawRow(name, number, fields)
