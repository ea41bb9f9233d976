"""The key of every row, on disk: what decides on which side a row stands."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from rlhf_core.data.repeats import grouped
from rlhf_core.data.row_sets import Flags, RowSet
from rlhf_core.data.schemas import TableName
from rlhf_core.data.spills import Records, Spill, by_hash
from rlhf_core.data.splits import Salt, position_bits

_TABLES: tuple[TableName, ...] = ("demonstrations", "preferences", "prompts", "text")
_RECORD = [
    ("high", "<u8"),
    ("low", "<u8"),
    ("number", "<u4"),
    ("table", "u1"),
    ("evaluation", "<u8"),
    ("validation", "<u8"),
    ("own-validation", "<u8"),
]
"""A key's hash, its row, and its position under each salt that its table needs, else 0."""

_FIELDS: Mapping[Salt, str] = {
    "evaluation": "evaluation",
    "validation": "validation",
    "sft-validation": "own-validation",
    "text-validation": "own-validation",
}


class Keys:
    """Some of the keys of all tables, each with all of its rows."""

    def __init__(self, records: Records) -> None:
        self._records, self._key = grouped(records)
        self._starts = np.flatnonzero(np.diff(self._key, prepend=-1))
        self.high: NDArray[np.uint64] = self._records["high"][self._starts]
        self.low: NDArray[np.uint64] = self._records["low"][self._starts]

    def __len__(self) -> int:
        return len(self._starts)

    def positions(self, salt: Salt) -> NDArray[np.uint64]:
        """Of each key; 0 where no table that has it needs one."""
        found: NDArray[np.uint64] = np.maximum.reduceat(self._records[_FIELDS[salt]], self._starts)
        return found

    def of_rows(self, table: TableName, rows: RowSet) -> Flags:
        """Which keys one of these rows of the table has."""
        mine = self._records["table"] == _TABLES.index(table)
        has = np.zeros(len(self), dtype=np.bool_)
        has[self._key[mine][rows.has(self._records["number"][mine])]] = True
        return has

    def rows_of(self, table: TableName, chosen: Flags) -> NDArray[np.uint32]:
        """The numbers of the table's rows that have a chosen key."""
        mine = self._records["table"] == _TABLES.index(table)
        found: NDArray[np.uint32] = self._records["number"][mine & chosen[self._key]]
        return found


class KeySpill:
    """Takes the keys of all tables' rows, and gives them back key by key."""

    def __init__(self, folder: Path, salts: Mapping[TableName, Sequence[Salt]]) -> None:
        self._salts = salts
        self._spill = Spill(folder, "keys", _RECORD, by_hash("high"))

    def add(self, table: TableName, numbers: NDArray[np.uint32], keys: Sequence[str]) -> None:
        """These rows of the table have these keys."""
        distinct: dict[str, int] = {}
        of_row = [distinct.setdefault(key, len(distinct)) for key in keys]
        encoded = [key.encode("utf-8", "surrogatepass") for key in distinct]
        hashes = np.frombuffer(b"".join(map(xxhash.xxh3_128_digest, encoded)), dtype="<u8")
        records = np.zeros(len(numbers), dtype=_RECORD)
        records["number"] = numbers
        records["table"] = _TABLES.index(table)
        records["high"], records["low"] = hashes[::2][of_row], hashes[1::2][of_row]
        for salt in self._salts[table]:
            positions = np.array([position_bits(key, salt) for key in encoded], dtype="<u8")
            records[_FIELDS[salt]] = positions[of_row]
        self._spill.add(records)

    def parts(self) -> Iterator[Keys]:
        """All keys, each in one part."""
        for records in self._spill.parts():
            yield Keys(records)

    def remove(self) -> None:
        """Free the disk."""
        self._spill.remove()
