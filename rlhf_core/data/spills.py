"""Records that wait on disk until all of them are there, in parts that fit into memory one by one.

What compares rows with each other writes a few bytes a row: a hash of what is compared and the
row's number. Records that may be equal share a part, so that parts are looked at one at a time.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Records = NDArray[Any]
"""One dimension, of a structured type."""

HASH_PARTS = 64
"""Parts by hash: 100 million records of 32 bytes are 50 MB each."""

ROWS_PER_PART = 2**18
"""Of parts by row number."""

_BYTES_HELD = 2 * 2**20

_LINES_HELD = 2**18
_LINE_PARTS = 64


def by_hash(field: str) -> Callable[[Records], NDArray[np.int64]]:
    """The part of each record by the highest bits of a hash."""

    def part_of(records: Records) -> NDArray[np.int64]:
        hashes: NDArray[np.uint64] = records[field]
        return (hashes >> np.uint64(58)).astype(np.int64)

    return part_of


def by_number(records: Records) -> NDArray[np.int64]:
    """The part of each record by its row's number, so that parts in order are rows in order."""
    numbers: NDArray[np.int64] = records["number"].astype(np.int64)
    return numbers // ROWS_PER_PART


class Spill:
    """Records by part; they stay in memory while they are few."""

    def __init__(
        self, folder: Path, name: str, dtype: Any, part_of: Callable[[Records], NDArray[np.int64]]
    ) -> None:
        self._path = folder / name
        self._dtype = np.dtype(dtype)
        self._part_of = part_of
        self._held: list[Records] = []
        self._held_bytes = 0
        self._on_disk: set[int] = set()
        self.count = 0

    def add(self, records: Records) -> None:
        """Keep a copy of the records."""
        if not len(records):
            return
        self._held.append(records)
        self._held_bytes += records.nbytes
        self.count += len(records)
        if self._held_bytes > _BYTES_HELD:
            self._write()

    def parts(self) -> Iterator[Records]:
        """The records part by part, in the order of the parts; one part where they are few."""
        if not self._on_disk:
            if self._held:
                yield np.concatenate(self._held)
            return
        self._write()
        for part in sorted(self._on_disk):
            yield np.fromfile(self._file(part), dtype=self._dtype)

    def remove(self) -> None:
        """Free the disk and the memory."""
        for part in self._on_disk:
            self._file(part).unlink()
        self._on_disk.clear()
        self._held.clear()
        self._held_bytes = self.count = 0

    def _write(self) -> None:
        if not self._held:
            return
        records = np.concatenate(self._held)
        self._held.clear()
        self._held_bytes = 0
        of_part = self._part_of(records)
        order = np.argsort(of_part, kind="stable")
        records, of_part = records[order], of_part[order]
        borders = np.flatnonzero(np.diff(of_part)) + 1
        for start, group in zip([0, *borders], np.split(records, borders), strict=True):
            part = int(of_part[start])
            with self._file(part).open("ab") as file:
                group.tofile(file)
            self._on_disk.add(part)

    def _file(self, part: int) -> Path:
        return self._path.with_name(f"{self._path.name}-{part}")


class LineSpill:
    """Lines of text by part; they stay in memory while they are few."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / name
        self._held: dict[int, list[str]] = {}
        self._held_characters = 0
        self._on_disk: set[int] = set()

    def add(self, part: int, line: str) -> None:
        """Keep the line, which holds no line break."""
        self._held.setdefault(part, []).append(line)
        self._held_characters += len(line)
        if self._held_characters > _LINES_HELD:
            self._write()

    def parts(self) -> list[int]:
        """The parts that have lines, in order."""
        return sorted(self._on_disk | set(self._held))

    def lines(self, part: int) -> Iterator[str]:
        """The lines of one part as they were added."""
        if part in self._on_disk:
            with self._file(part).open(encoding="utf-8", newline="\n") as file:
                for line in file:
                    yield line.removesuffix("\n")
        yield from self._held.get(part, ())

    def remove(self) -> None:
        """Free the disk and the memory."""
        for part in self._on_disk:
            with suppress(FileNotFoundError):
                self._file(part).unlink()
        self._on_disk.clear()
        self._held.clear()
        self._held_characters = 0

    def _write(self) -> None:
        for part, lines in self._held.items():
            with self._file(part).open("a", encoding="utf-8", newline="\n") as file:
                file.writelines(line + "\n" for line in lines)
            self._on_disk.add(part)
        self._held.clear()
        self._held_characters = 0

    def _file(self, part: int) -> Path:
        return self._path.with_name(f"{self._path.name}-{part}")


def hash_part(digest: int) -> int:
    """The part of a line whose like have the same 64-bit hash."""
    return digest % _LINE_PARTS
