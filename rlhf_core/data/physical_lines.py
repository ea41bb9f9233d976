"""Physical lines of a byte stream, many at a time, in memory that no line can fill."""

from collections.abc import Iterator
from dataclasses import dataclass

from rlhf_core.data.packed_files import ByteStream, DamagedError

MAX_ROW_BYTES = 16 * 2**20

ENDLESS_BYTES = 2**30
"""A line that goes on for longer than this is not read to its end."""

_BLOCK_BYTES = 2**18


@dataclass(slots=True)
class Lines:
    """Whole lines that stand one after another, without their LF."""

    lines: list[bytes]
    first: int
    """Physical number of the first of them."""

    offset: int
    """Bytes of the stream before it."""

    oversized: bool = False
    """The one line is over the limit, and only its first bytes are here."""

    def offset_of(self, place: int) -> int:
        """Bytes of the stream before one of the lines."""
        return self.offset + sum(len(line) + 1 for line in self.lines[:place])


class EndlessLineError(Exception):
    """A line goes on for so long that reading on would never end."""

    def __init__(self, line: int) -> None:
        super().__init__(f"line {line} goes on for over {ENDLESS_BYTES:,} bytes")
        self.line = line


class BrokenFileError(Exception):
    """The stream breaks after some line; `line` is the one that could not be read whole."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line


def physical_lines(stream: ByteStream) -> Iterator[Lines]:
    """All lines of the stream in order; LF alone ends a line, and the last one needs none."""
    return _Cutter(stream).blocks()


class _Cutter:
    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._line = 1
        self._offset = 0
        self._parts: list[bytes] = []
        self._size = 0

    def blocks(self) -> Iterator[Lines]:
        while data := self._read():
            end = data.rfind(b"\n") + 1
            if end:
                yield from self._whole_lines(b"".join([*self._parts, data[: end - 1]]))
                self._parts, self._size = [], 0
            self._keep(data[end:])
            if self._size > MAX_ROW_BYTES:
                yield from self._oversized()
        if self._size:
            yield from self._whole_lines(b"".join(self._parts))

    def _read(self) -> bytes:
        try:
            return self._stream.read(_BLOCK_BYTES)
        except DamagedError as error:
            last = b"".join(self._parts)
            raise BrokenFileError(self._line + last.count(b"\n"), str(error)) from None

    def _keep(self, data: bytes) -> None:
        if data:
            self._parts.append(data)
            self._size += len(data)

    def _whole_lines(self, block: bytes) -> Iterator[Lines]:
        count = block.count(b"\n") + 1
        if not block.isspace() and block:
            lines = block.split(b"\n")
            if len(block) <= MAX_ROW_BYTES:
                yield Lines(lines, self._line, self._offset)
            else:  # the first one may be over the limit by less than a block
                yield Lines(lines[:1], self._line, self._offset, len(lines[0]) > MAX_ROW_BYTES)
                if len(lines) > 1:
                    yield Lines(lines[1:], self._line + 1, self._offset + len(lines[0]) + 1)
        self._line += count
        self._offset += len(block) + 1

    def _oversized(self) -> Iterator[Lines]:
        """The beginning of the line at hand; what follows it is read past, and not kept."""
        beginning = self._parts[0]
        line, offset = self._line, self._offset
        while (data := self._read()) and b"\n" not in data:
            self._size += len(data)
            if self._size > ENDLESS_BYTES:
                yield Lines([beginning], line, offset, oversized=True)
                raise EndlessLineError(line)
        yield Lines([beginning], line, offset, oversized=True)
        end = data.find(b"\n") + 1
        self._offset += self._size + end
        self._line += 1
        self._parts, self._size = [], 0
        rest = data[end:]
        cut = rest.rfind(b"\n") + 1
        if cut:
            yield from self._whole_lines(rest[: cut - 1])
        self._keep(rest[cut:])
