"""Rows stream out of local files, each with its file and physical line.

What a file holds is told by its first bytes; its name must agree. Nothing is ever held but a part
of it.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from rlhf_core.data.faults import Fault
from rlhf_core.data.file_formats import (
    DATA_SUFFIXES,
    HEAD_BYTES,
    PARQUET,
    TEXT,
    format_fault,
    found_format,
    holds_text_lines,
    unpacked_fault,
)
from rlhf_core.data.line_rows import json_rows, text_rows
from rlhf_core.data.packed_files import ByteStream, DamagedError, unpacked
from rlhf_core.data.parquet_rows import parquet_rows
from rlhf_core.data.physical_lines import (
    MAX_ROW_BYTES,
    BrokenFileError,
    EndlessLineError,
    physical_lines,
)
from rlhf_core.data.raw_rows import RawRow, type_in_words
from rlhf_core.errors import DataError

__all__ = [
    "DATA_SUFFIXES",
    "MAX_ROW_BYTES",
    "LocalFile",
    "RawRow",
    "local_file",
    "read_file",
    "type_in_words",
]


class LocalFile(NamedTuple):
    """A raw file by name and content; the path is where this machine has it."""

    name: str
    path: Path
    sha256: str
    bytes: int


def local_file(path: Path, name: str) -> LocalFile:
    """The file at `path`, hashed, under the name that messages and records use."""
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): pass the path of a JSONL or Parquet file."
        ) from None
    encodable = name.encode("utf-8", "backslashreplace").decode()
    return LocalFile(encodable, path, digest.hexdigest(), size)


def read_file(file: LocalFile) -> Iterator[RawRow | Fault]:
    """Each row of the file in order, or the fault that makes it unreadable.

    Where the whole file cannot be read, one fault says so and nothing follows it. A fault of a rule
    in `rules.BESIDE_ROWS` stands beside a row, not in its place.
    """
    with file.path.open("rb") as opened:
        start = opened.read(HEAD_BYTES)
        opened.seek(0)
        fault = format_fault(file.name, file.path.name, start)
        if fault is not None:
            yield fault
        elif found_format(start) == PARQUET:
            yield from parquet_rows(file.name, file.path)
        else:
            yield from _rows_of_lines(file, opened, found_format(start))


def _rows_of_lines(file: LocalFile, opened: BinaryIO, format_name: str) -> Iterator[RawRow | Fault]:
    name = file.name
    try:
        stream: ByteStream = unpacked(opened, format_name)
        if format_name != TEXT:
            start = stream.read(HEAD_BYTES)
            fault = unpacked_fault(name, file.path.name, start)
            if fault is not None:
                yield fault
                return
            stream = _Again(start, stream)
        rows = text_rows if holds_text_lines(file.path.name) else json_rows
        yield from rows(name, physical_lines(stream))
    except DamagedError as error:
        yield Fault("DATA-003", name, 1, "", str(error))
    except BrokenFileError as error:
        seen = f"{error}; the lines before this one are whole"
        yield Fault("DATA-003", name, error.line, "", seen)
    except EndlessLineError as error:
        seen = f"{error}; nothing after it was read"
        yield Fault("DATA-003", name, error.line, "", seen)


class _Again:
    """A stream whose first bytes have been read already."""

    def __init__(self, start: bytes, rest: ByteStream) -> None:
        self._start, self._rest = start, rest

    def read(self, size: int, /) -> bytes:
        start, self._start = self._start, b""
        return start or self._rest.read(size)
