"""Where each row stands, by its number, in eight bytes a row on disk."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_LINE_BITS = 40
_BYTES = 8
_HELD = 2**16


class Place(NamedTuple):
    """A file, by the name that messages use, and a physical line of it."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Places:
    """The places of a table's raw rows; the n-th that is added is number n."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{name}-places"
        self._names: list[str] = []
        self._index: dict[str, int] = {}
        self._held: list[int] = []
        self._on_disk = 0
        self._file = self._path.open("w+b")

    def packed(self, file: str, line: int) -> int:
        """The place as one number."""
        known = self._index.get(file)
        if known is None:
            known = self._index[file] = len(self._names) << _LINE_BITS
            self._names.append(file)
        return known | line

    def extend(self, packed: Iterable[int]) -> None:
        """The next rows stand there."""
        self._held.extend(packed)
        if len(self._held) > _HELD:
            self._write()

    def __getitem__(self, number: int) -> Place:
        if number >= self._on_disk:
            packed = self._held[number - self._on_disk]
        else:
            self._file.seek(number * _BYTES)
            packed = int.from_bytes(self._file.read(_BYTES), "little")
        return Place(self._names[packed >> _LINE_BITS], packed & (2**_LINE_BITS - 1))

    def remove(self) -> None:
        """Free the disk."""
        self._file.close()
        self._path.unlink()

    def _write(self) -> None:
        packed: NDArray[np.uint64] = np.array(self._held, dtype="<u8")
        self._file.seek(self._on_disk * _BYTES)
        self._file.write(packed.tobytes())
        self._file.flush()
        self._on_disk += len(self._held)
        self._held.clear()
