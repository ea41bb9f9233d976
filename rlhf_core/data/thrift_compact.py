"""Structs of Thrift's compact protocol, in which Parquet writes its footer and its page headers.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from typing import TypeAlias

Value: TypeAlias = "int | bytes | list[Value] | dict[int, Value]"
Struct = dict[int, Value]

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_WHOLE_NUMBERS = (4, 5, 6)
_DEEPEST = 32


class ThriftError(ValueError):
    """The bytes are no struct of the protocol, or end inside one.

    `fields` are those of the outermost struct that stand before the fault.
    """

    fields: Struct


def read_struct(content: bytes) -> tuple[Struct, int]:
    """The struct at the beginning, its values by the numbers of their fields, and where it ends."""
    reader, fields = _Reader(content), Struct()
    try:
        reader.fill(fields, 0)
    except ThriftError as error:
        error.fields = fields
        raise
    return fields, reader.place


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self.place = 0

    def fill(self, fields: Struct, depth: int) -> None:
        """Read the struct at this place into `fields`."""
        number = 0
        while head := self._byte():
            delta, kind = head >> 4, head & 0x0F
            number = number + delta if delta else self._signed()
            fields[number] = kind == _TRUE if kind <= _FALSE else self._value(kind, depth + 1)

    def _value(self, kind: int, depth: int) -> Value:
        if depth > _DEEPEST:
            raise ThriftError(f"structs nested deeper than {_DEEPEST}")
        if kind in _WHOLE_NUMBERS:
            return self._signed()
        if kind == _BINARY:
            return self._bytes(self._unsigned())
        if kind == _STRUCT:
            fields = Struct()
            self.fill(fields, depth)
            return fields
        if kind in (_LIST, _SET):
            return self._list(depth)
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind <= _BYTE:  # in a list, true and false take a byte as well
            return self._byte()
        if kind == _MAP and not self._unsigned():
            return {}
        raise ThriftError(f"type {kind}, which Parquet has no use for")

    def _list(self, depth: int) -> list[Value]:
        head = self._byte()
        size = head >> 4
        if size == 0x0F:
            size = self._unsigned()
        if size > len(self._content) - self.place:
            raise ThriftError(f"a list of {size} values, which do not follow")
        return [self._value(head & 0x0F, depth + 1) for _ in range(size)]

    def _byte(self) -> int:
        if self.place >= len(self._content):
            raise ThriftError("the bytes end inside a struct")
        self.place += 1
        return self._content[self.place - 1]

    def _bytes(self, count: int) -> bytes:
        end = self.place + count
        if end > len(self._content):
            raise ThriftError("the bytes end inside a value")
        found = self._content[self.place : end]
        self.place = end
        return found

    def _unsigned(self) -> int:
        number, shift = 0, 0
        while shift < 64:
            byte = self._byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7
        raise ThriftError("a number of more than 64 bits")

    def _signed(self) -> int:
        number = self._unsigned()
        return (number >> 1) ^ -(number & 1)
