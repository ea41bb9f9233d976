"""An append-only file of records: a kill or a power cut can shorten it, and nothing else.

Each record is eight bytes, length and CRC-32 (of length and payload, little-endian), and a payload
of JSON. What a torn write left at the end is recognised and cut off when the file is opened again.
"""

import fcntl
import json
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

Record = dict[str, Any]

_LENGTH = struct.Struct("<I")
_HEAD = struct.Struct("<II")
MAX_RECORD_BYTES = 256 * 2**20


class Placed(NamedTuple):
    """A record and where it ends in its file."""

    record: Record
    end: int


class Journal:
    """The one writer of a journal file that is there; `end` is where its last whole record ends.

    Opening waits for nobody: BlockingIOError where another process writes or ships it,
    FileNotFoundError where it was removed. Each record that is there is given to `each`.
    """

    def __init__(self, path: Path, each: Callable[[Record], object] = lambda _: None) -> None:
        self.path = path
        self._one_at_a_time = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self._file).st_nlink == 0:
                raise BlockingIOError(f"{path} was removed by whoever shipped it")
            self.end = 0
            for placed in read_records(path):
                each(placed.record)
                self.end = placed.end
            self.cut = os.fstat(self._file).st_size - self.end
            os.ftruncate(self._file, self.end)
        except OSError:
            os.close(self._file)
            raise

    def append(self, record: Mapping[str, Any]) -> None:
        """The record is in the file, whole; after a full disk the file is as it was before."""
        payload = json.dumps(record, separators=(",", ":")).encode()
        framed = _HEAD.pack(len(payload), _checksum(payload)) + payload
        with self._one_at_a_time:
            try:
                _write_all(self._file, framed, self.end)
            except OSError:
                os.ftruncate(self._file, self.end)
                raise
            self.end += len(framed)

    def sync(self) -> None:
        """All that was appended outlives a power cut."""
        os.fsync(self._file)

    def close(self) -> None:
        """Another process may write the file."""
        os.close(self._file)


def make_journal(path: Path) -> None:
    """An empty journal is at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def read_records(path: Path, start: int = 0) -> Iterator[Placed]:
    """The whole records from byte `start` on, up to the first that is not whole."""
    with path.open("rb") as file:
        file.seek(start)
        end = start
        while True:
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                return
            length, checksum = _HEAD.unpack(head)
            if length > MAX_RECORD_BYTES:
                return
            payload = file.read(length)
            if len(payload) < length or checksum != _checksum(payload):
                return
            end += _HEAD.size + length
            yield Placed(json.loads(payload), end)


def _checksum(payload: bytes) -> int:
    """The length counts too, so that a run of zeros is no record."""
    return zlib.crc32(payload, zlib.crc32(_LENGTH.pack(len(payload))))


def _write_all(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
