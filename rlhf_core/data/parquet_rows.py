"""Rows of a Parquet file, a few at a time, so that no row group has to fit into memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from rlhf_core.data.physical_lines import MAX_ROW_BYTES
from rlhf_core.data.raw_rows import RawRow
from rlhf_core.data.rules import Fault, shown_key

_BATCH_BYTES = 4 * 2**20
_I32_FIELD = b"\x15"
"""In Thrift's compact protocol: the next field, a number of 32 bits."""

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
        said = " ".join(str(error).split())[:200]
        seen = f"row {number + 1} cannot be read: the file is damaged or cut off ({said})"
        yield Fault("DATA-003", name, number + 1, "", seen)


def _column_that_stands_twice(schema: pa.Schema) -> str | None:
    names = list(schema.names)
    return next((name for name in names if names.count(name) > 1), None)


def _batches(file: pq.ParquetFile, path: Path) -> Iterator[pa.RecordBatch]:
    """All rows, in batches of few bytes as far as means and dictionaries tell."""
    with path.open("rb") as opened:
        for place in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(place)
            row_bytes = max(1, group.total_byte_size // max(1, group.num_rows))
            largest = max(
                (_dictionary_bytes(opened, group.column(n)) for n in range(group.num_columns)),
                default=0,
            )
            size = min(_BATCH_BYTES // row_bytes, _MOST_BYTES // max(1, largest), _MOST_ROWS)
            yield from file.iter_batches(max(1, size), row_groups=[place], use_threads=False)


def _dictionary_bytes(opened: BinaryIO, column: pq.ColumnChunkMetaData) -> int:
    """Size of the page from which each row may repeat a value; 0 where there is none.

    It is the second number of the page's header, in Thrift's compact protocol: a byte for the
    field, and seven bits of the number in each byte after it, the lowest first and its sign last.
    """
    if not column.has_dictionary_page:
        return 0
    opened.seek(column.dictionary_page_offset or 0)
    header = opened.read(16)
    place = 0
    number = 0
    for _ in ("type", "uncompressed size"):
        if header[place : place + 1] != _I32_FIELD:
            return 0
        place, number, shift = place + 1, 0, 0
        while place < len(header):
            number |= (header[place] & 0x7F) << shift
            shift += 7
            place += 1
            if header[place - 1] < 0x80:
                break
    return number >> 1


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
