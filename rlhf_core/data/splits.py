"""Who stands on which side: by hash, so that a row stays where it was when others are added."""

import hashlib
from collections.abc import Collection, Mapping
from typing import Literal

from rlhf_core.errors import DataError

FEW_KEYS = 100
"""With fewer keys than this, the share is met by count: a hash alone may leave a side empty."""

Salt = Literal[
    "collected-validation", "evaluation", "sft-validation", "text-validation", "validation"
]


def held_out_keys(
    tables: Mapping[str, Collection[str]], share: float, *, salt: Salt, split_by: str
) -> frozenset[str]:
    """The keys kept from training, about `share` of each table's and at least one of each.

    A key that stands in several tables is held out of all of them or of none. Of many keys each is
    placed by its own hash; of few, those with the lowest hashes are taken.
    """
    placed: set[str] = set()
    held_out: set[str] = set()
    for table, keys in sorted(tables.items(), key=lambda item: (len(set(item[1])), item[0])):
        distinct = set(keys)
        if not distinct:
            continue
        if len(distinct) == 1:
            raise one_key_alone(table, split_by, salt)
        ordered = sorted(distinct - placed, key=lambda key: _position(key, salt))
        already = len(distinct & held_out)
        if len(distinct) < FEW_KEYS:
            taken = ordered[: max(0, max(1, round(share * len(distinct))) - already)]
        else:
            taken = [key for key in ordered if _position(key, salt) < share]
            taken = taken or ordered[: 0 if already else 1]
        held_out.update(taken)
        placed |= distinct
    return frozenset(held_out)


def one_key_alone(table: str, split_by: str, salt: Salt) -> DataError:
    """The refusal of a table with a single key."""
    return DataError(
        f"All rows of {table} have the same {split_by!r}, so they cannot be split for "
        f"{salt}: split by another column (`--set data.split_by=COLUMN`) or add rows."
    )


def position_bits(key: bytes, salt: Salt) -> int:
    """A number of 64 bits that the key, in UTF-8, and the salt alone decide."""
    digest = hashlib.sha256(salt.encode() + b"\0" + key).digest()
    return int.from_bytes(digest[:8], "big")


def _position(key: str, salt: Salt) -> float:
    """The same as a number in [0, 1)."""
    return position_bits(key.encode(), salt) / 2**64
