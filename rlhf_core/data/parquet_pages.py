"""How large the pages of a Parquet file say that they are, before any of them is unpacked.

A reader allocates what a page's header says, and each row may repeat a value of the dictionary: a
file of a few bytes could fill any memory. The numbers of fields are those of parquet.thrift.
"""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from rlhf_core.data.thrift_compact import Struct, ThriftError, read_struct

_ROW_GROUPS, _COLUMNS, _META_DATA = 4, 1, 3
_CHUNK_BYTES, _DATA_OFFSET, _DICTIONARY_OFFSET = 7, 9, 11
_PAGE_TYPE, _UNPACKED_BYTES, _PACKED_BYTES = 1, 2, 3
_DICTIONARY = 2

_HEADER_BYTES = (2**8, 2**14, 2**22)
"""How much is read to find a header in; statistics in it hold values of the column."""


class PageSizes(NamedTuple):
    """Bytes, packed or not, of the largest page of a row group and of its largest dictionary."""

    page: int
    dictionary: int


def page_sizes(file: BinaryIO) -> Iterator[PageSizes]:
    """The sizes for each row group; what cannot be understood is left to who reads the rows."""
    try:
        groups = _list(_footer(file), _ROW_GROUPS)
    except ThriftError:
        return
    for group in groups:
        page, dictionary = 0, 0
        for column in _list(group, _COLUMNS):
            for kind, size in _pages(file, column.get(_META_DATA)):
                page = max(page, size)
                dictionary = max(dictionary, size if kind == _DICTIONARY else 0)
        yield PageSizes(page, dictionary)


def _footer(file: BinaryIO) -> Struct:
    end = file.seek(0, 2)
    file.seek(max(0, end - 8))
    length = int.from_bytes(file.read(4), "little")
    if length > end - 8:
        raise ThriftError("the footer is longer than the file")
    file.seek(end - 8 - length)
    return read_struct(file.read(length))[0]


def _pages(file: BinaryIO, chunk: object) -> Iterator[tuple[int, int]]:
    """Type and size of each page of a column chunk, as far as their headers can be read."""
    if not isinstance(chunk, dict):
        return
    place = _number(chunk, _DICTIONARY_OFFSET) or _number(chunk, _DATA_OFFSET)
    end = place + _number(chunk, _CHUNK_BYTES)
    while 0 < place < end:
        try:
            header, length = _header(file, place)
        except ThriftError as error:
            header, length = error.fields, end
        sizes = _number(header, _UNPACKED_BYTES), _number(header, _PACKED_BYTES)
        yield _number(header, _PAGE_TYPE), max(sizes)
        place += length + max(0, sizes[1])


def _header(file: BinaryIO, place: int) -> tuple[Struct, int]:
    for size in _HEADER_BYTES:
        file.seek(place)
        content = file.read(size)
        try:
            return read_struct(content)
        except ThriftError:
            if len(content) < size or size == _HEADER_BYTES[-1]:
                raise
    raise AssertionError


def _number(struct: Struct, field: int) -> int:
    value = struct.get(field)
    return value if isinstance(value, int) else 0


def _list(struct: Struct, field: int) -> list[Struct]:
    values = struct.get(field)
    found = values if isinstance(values, list) else []
    return [value for value in found if isinstance(value, dict)]
