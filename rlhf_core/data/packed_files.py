"""Packed files as streams of what they unpack to, which say where they are not whole."""

import zlib
from typing import BinaryIO, Protocol

import pyarrow as pa

from rlhf_core.data.file_formats import GZIP, ZSTD
from rlhf_core.data.shown_text import visible

_READ_BYTES = 2**16

MOST_UNPACKED_BYTES = 2**30
MOST_TIMES = 400
"""Text that can teach anything is never packed so small; gzip could pack to a thousandth."""


class ByteStream(Protocol):
    """What bytes are read from, some at a time, until there are none."""

    def read(self, size: int, /) -> bytes: ...


class DamagedError(Exception):
    """The bytes of a file are not those that were written."""


def unpacked(file: BinaryIO, format_name: str) -> ByteStream:
    """The bytes of a file as they were before it was packed; its own where it was not."""
    if format_name == GZIP:
        return _NoBomb(_GzipStream(file), file)
    return _NoBomb(_ZstdStream(file), file) if format_name == ZSTD else _PlainStream(file)


class _PlainStream:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int, /) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            raise DamagedError(f"the disk does not give it back ({error.strerror})") from None


class _NoBomb:
    """A stream that ends in an error where it unpacks to far more than any text does."""

    def __init__(self, stream: ByteStream, packed: BinaryIO) -> None:
        self._stream, self._packed = stream, packed
        self._unpacked_bytes = 0

    def read(self, size: int, /) -> bytes:
        found = self._stream.read(size)
        self._unpacked_bytes += len(found)
        if self._unpacked_bytes > max(MOST_UNPACKED_BYTES, MOST_TIMES * self._packed.tell()):
            raise DamagedError(
                f"it unpacks to over {MOST_UNPACKED_BYTES:,} bytes and {MOST_TIMES} times its "
                "size, as no text does; was it made to fill a disk? If not, unpack it first"
            )
        return found


class _GzipStream:
    """One member after another; zeros may follow the last one, as tapes leave them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = _PlainStream(file)
        self._packed = b""
        self._member = zlib.decompressobj(wbits=31)

    def read(self, size: int, /) -> bytes:
        while True:
            if self._member.eof:
                self._packed = self._member.unused_data
                if not self._begins_another():
                    return b""
                self._member = zlib.decompressobj(wbits=31)
            packed = self._packed or self._file.read(_READ_BYTES)
            if not packed:
                raise DamagedError("it ends before the packed data does: it was cut off")
            try:
                found = self._member.decompress(packed, size)
            except zlib.error as error:
                raise DamagedError(f"its packed data is damaged ({error})") from None
            self._packed = self._member.unconsumed_tail
            if found:
                return found

    def _begins_another(self) -> bool:
        """Whether another member follows the one that has ended."""
        while len(self._packed) < 2 or not self._packed.strip(b"\0"):
            more = self._file.read(_READ_BYTES)
            if not more:
                break
            self._packed = self._packed.lstrip(b"\0") + more
        self._packed = self._packed.lstrip(b"\0")
        if self._packed.startswith(b"\x1f\x8b"):
            return True
        if self._packed:
            raise DamagedError("other bytes follow the end of its packed data")
        return False


class _ZstdStream:
    """One frame after another."""

    def __init__(self, file: BinaryIO) -> None:
        self._stream = pa.CompressedInputStream(file, "zstd")

    def read(self, size: int, /) -> bytes:
        try:
            return bytes(self._stream.read(min(size, _READ_BYTES)))
        except (pa.ArrowException, OSError) as error:
            said = visible(" ".join(str(error).split()))
            raise DamagedError(f"its packed data is damaged or cut off ({said})") from None
