"""Rows stream out of local files, each with its file and physical line.

What a file holds is told by its first bytes; its name must agree.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from rlhf_core.data.rules import Fault, escaped
from rlhf_core.errors import DataError

MAX_ROW_BYTES = 16 * 2**20

DATA_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet", ".txt", ".txt.gz")
_TEXT_SUFFIXES = (".txt", ".txt.gz")

_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_OTHER_FORMATS = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"ARROW1": "Arrow",
}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class RawRow(NamedTuple):
    """A JSON object, Parquet row or line of text as it came, and where it stood."""

    file: str
    line: int
    fields: Mapping[str, object]


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
    return LocalFile(name, path, digest.hexdigest(), size)


def read_file(file: LocalFile) -> Iterator[RawRow | Fault]:
    """Each row of the file in order, or the fault that makes it unreadable."""
    with file.path.open("rb") as opened:
        start = opened.read(8)
        opened.seek(0)
        _check_format(file.name, start)
        if start.startswith(_PARQUET):
            yield from _parquet_rows(file.name, opened)
        elif start.startswith(_GZIP):
            with gzip.open(opened) as unpacked:
                yield from _line_rows(file.name, _lines(file.name, cast(BinaryIO, unpacked)))
        else:
            yield from _line_rows(file.name, _lines(file.name, opened))


def _check_format(name: str, start: bytes) -> None:
    if not start:
        raise DataError(f"{name} is empty (rule DATA-001): pass a file with rows.")
    for magic, format_name in _OTHER_FORMATS.items():
        if start.startswith(magic):
            raise DataError(
                f"{name} is a {format_name} file (rule DATA-002): convert it to JSONL (plain or "
                "gzip) or Parquet."
            )
    if start[:2] in (b"\xff\xfe", b"\xfe\xff") or start[1:4:2] == b"\0\0":
        raise DataError(
            f"{name} is UTF-16 text (rule ENC-001): save it as UTF-8, for example "
            "`iconv -f utf-16 -t utf-8 FILE`."
        )
    found = "gzip" if start.startswith(_GZIP) else "plain text"
    found = "Parquet" if start.startswith(_PARQUET) else found
    named = "gzip" if name.endswith(".gz") else "plain text"
    named = "Parquet" if name.endswith(".parquet") else named
    if found != named:
        raise DataError(
            f"{name} is named as {named} but holds {found} (rule DATA-002): rename it, or copy it "
            "again if it was damaged."
        )


def _lines(name: str, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Physical lines with their numbers; of an oversized one only its first bytes."""
    number = 0
    try:
        while line := file.readline(MAX_ROW_BYTES + 1):
            number += 1
            yield number, line
            while len(line) > MAX_ROW_BYTES and not line.endswith(b"\n"):
                line = file.readline(MAX_ROW_BYTES + 1) or b"\n"
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{name}:{number + 1}: the file ends or breaks here (rule DATA-003: {error}): it is "
            "not whole; copy or download it again."
        ) from None


def _line_rows(name: str, lines: Iterable[tuple[int, bytes]]) -> Iterator[RawRow | Fault]:
    """A row from each line that is not blank: a JSON object, or text where the name says so."""
    row = _text_row if name.endswith(_TEXT_SUFFIXES) else _json_row
    for number, line in lines:
        content = line.removesuffix(b"\n").removesuffix(b"\r")
        if content.startswith(_BYTE_ORDER_MARK):
            content = content[len(_BYTE_ORDER_MARK) :]
            if number > 1:
                yield Fault("ENC-002", name, number, "", "a byte-order mark (EF BB BF)")
                continue
        if len(line) > MAX_ROW_BYTES:
            yield Fault("SIZE-001", name, number, "", f"over {MAX_ROW_BYTES:,} bytes on one line")
        elif content.strip():
            yield row(name, number, content)


def _text_row(name: str, number: int, content: bytes) -> RawRow | Fault:
    try:
        return RawRow(name, number, {"text": content.decode("utf-8")})
    except UnicodeDecodeError as error:
        return _not_utf8(name, number, content, error)


def _not_utf8(name: str, number: int, content: bytes, error: UnicodeDecodeError) -> Fault:
    seen = f"byte 0x{content[error.start]:02x} at offset {error.start} of the line"
    return Fault("ENC-001", name, number, "", seen)


def _json_row(name: str, number: int, content: bytes) -> RawRow | Fault:
    try:
        fields = json.loads(
            content.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError as error:
        return _not_utf8(name, number, content, error)
    except json.JSONDecodeError as error:
        near = escaped(error.doc[max(0, error.pos - 10) : error.pos + 20])
        return Fault(
            "JSON-001", name, number, "", f"{error.msg} at column {error.colno}, near {near}"
        )
    except _DuplicateKeyError as error:
        return Fault("JSON-002", name, number, error.key[:40], "the key stands twice")
    except _NotANumberError as error:
        return Fault("NUM-001", name, number, "", error.constant)
    except (RecursionError, ValueError) as error:  # ValueError: an integer of thousands of digits
        return Fault("SIZE-001", name, number, "", escaped(str(error)))
    if not isinstance(fields, dict):
        return Fault(
            "SCH-004", name, number, "", f"{type_in_words(fields)}, expected one JSON object"
        )
    return RawRow(name, number, fields)


class _DuplicateKeyError(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class _NotANumberError(Exception):
    def __init__(self, constant: str) -> None:
        super().__init__(constant)
        self.constant = constant


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateKeyError(key)
            seen.add(key)
    return fields


def _refuse_constant(constant: str) -> float:
    raise _NotANumberError(constant)


def _parquet_rows(name: str, file: BinaryIO) -> Iterator[RawRow]:
    number = 0
    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=1024):
            for fields in batch.to_pylist():
                number += 1
                yield RawRow(name, number, fields)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{name}: row {number + 1} cannot be read as Parquet (rule DATA-003: {error}): copy "
            "or download the file again."
        ) from None


def type_in_words(value: object) -> str:
    """The type of a JSON value as a reader of the file would say it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "a list" if isinstance(value, list) else "an object"
