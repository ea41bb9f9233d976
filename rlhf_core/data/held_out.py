"""Which keys are held out of training, of tables whose keys do not fit into memory.

The rule is that of `splits.held_out_keys`; only the keys of tables that have few are ever in memory
together.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from rlhf_core.data.keys import Keys
from rlhf_core.data.row_sets import Flags
from rlhf_core.data.splits import FEW_KEYS, Salt, one_key_alone

Members = Callable[[Keys], Mapping[str, Flags]]
"""Which of some keys each table has."""

_WHOLE = 2.0**64


class _Key(NamedTuple):
    position: int
    high: int
    low: int


class HeldOut:
    """Tells of any keys which are held out, about `share` of each table's and at least one."""

    def __init__(self, share: float, salt: Salt) -> None:
        self.share = share
        self.salt: Salt = salt
        self.counts: dict[str, int] = {}
        """Of the tables in the order in which their keys are placed: how many keys they have."""
        self.taken: dict[str, list[_Key]] = {}
        """Of the tables whose keys are not placed by hash: those that are held out."""

    def facts(self) -> dict[str, object]:
        """How keys were placed, for the report."""
        return {
            "salt": self.salt,
            "share": self.share,
            "hash": "sha256",
            "keys": self.counts,
            "by_count": sorted(self.taken),
        }

    def among(self, keys: Keys, members: Mapping[str, Flags]) -> Flags:
        """Which of the keys are held out."""
        below = keys.positions(self.salt) / _WHOLE < self.share
        held_out = np.zeros(len(keys), dtype=np.bool_)
        placed = np.zeros(len(keys), dtype=np.bool_)
        for table in self.counts:
            taken = self.taken.get(table)
            chosen = below if taken is None else _is_one_of(keys, taken)
            held_out |= members[table] & ~placed & chosen
            placed |= members[table]
        return held_out


def held_out(
    parts: Callable[[], Iterator[Keys]],
    members: Members,
    share: float,
    *,
    salt: Salt,
    split_by: str,
) -> HeldOut:
    """The rule for these tables' keys: few are taken by count, many each by its own hash.

    A key that stands in several tables is held out of all of them or of none.
    """
    counts: dict[str, int] = {}
    below: dict[str, int] = {}
    few: dict[str, list[_Key]] = {}
    for keys in parts():
        positions = keys.positions(salt)
        for table, has in members(keys).items():
            counts[table] = counts.get(table, 0) + int(np.count_nonzero(has))
            small = has & (positions / _WHOLE < share)
            below[table] = below.get(table, 0) + int(np.count_nonzero(small))
            kept = few.setdefault(table, [])
            if len(kept) < FEW_KEYS:
                kept.extend(_keys(keys, salt, has)[: FEW_KEYS - len(kept)])
    rule = HeldOut(share, salt)
    for table in sorted((table for table in counts if counts[table]), key=lambda t: (counts[t], t)):
        if counts[table] == 1:
            raise one_key_alone(table, split_by, salt)
        if counts[table] < FEW_KEYS:
            placed = {key for earlier in rule.counts for key in few[earlier]}
            rule.taken[table] = _by_count(rule, few[table], placed)
        elif below[table] <= FEW_KEYS * len(rule.taken):
            lowest = _lowest_where_none_is_taken(rule, table, parts, members)
            if lowest is not None:
                rule.taken[table] = [lowest]
        rule.counts[table] = counts[table]
    return rule


def _by_count(rule: HeldOut, keys: list[_Key], placed: set[_Key]) -> list[_Key]:
    """The keys of the lowest positions, as many as the share needs beside those already taken."""
    already = len({key for taken in rule.taken.values() for key in taken} & set(keys))
    wanted = max(0, max(1, round(rule.share * len(keys))) - already)
    return sorted(key for key in keys if key not in placed)[:wanted]


def _lowest_where_none_is_taken(
    rule: HeldOut, table: str, parts: Callable[[], Iterator[Keys]], members: Members
) -> _Key | None:
    """The key to hold out of a table of many keys of which none would be."""
    lowest: _Key | None = None
    for keys in parts():
        found = members(keys)
        placed = np.zeros(len(keys), dtype=np.bool_)
        for earlier in rule.counts:
            placed |= found[earlier]
        new = found[table] & ~placed
        below = new & (keys.positions(rule.salt) / _WHOLE < rule.share)
        if below.any() or (found[table] & rule.among(keys, found)).any():
            return None
        lowest = min([*_keys(keys, rule.salt, new), *([lowest] if lowest else [])], default=None)
    return lowest


def _keys(keys: Keys, salt: Salt, chosen: Flags) -> list[_Key]:
    columns = (keys.positions(salt)[chosen], keys.high[chosen], keys.low[chosen])
    return list(map(_Key, *(column.tolist() for column in columns)))


def _is_one_of(keys: Keys, some: list[_Key]) -> Flags:
    found = np.zeros(len(keys), dtype=np.bool_)
    for key in some:
        found |= (keys.high == key.high) & (keys.low == key.low)
    return found
