"""MinHash signatures of all prompts, on disk, and which training prompts may be held-out ones.

Prompts that share most of their word triples agree in one of four bands of their signatures
(locality-sensitive hashing, Broder 1997): of those with a Jaccard index of 0.95 some 99.7 % do, of
0.9 some 97 %, of 0.5 some 12 %.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from rlhf_core.data.batches import Hashes, mixed
from rlhf_core.data.repeats import grouped
from rlhf_core.data.row_sets import Flags, Numbers
from rlhf_core.data.shingles import ShingleHasher
from rlhf_core.data.spills import Records, Spill, by_hash

BANDS = 4
ROWS_PER_BAND = 5
_SEED = 1

_SIGNATURE = [("number", "<u4"), ("table", "u1"), ("bands", "<u4", (BANDS,))]
_BUCKET = [("high", "<u8"), ("low", "<u8"), ("number", "<u4"), ("table", "u1"), ("held_out", "?")]

_AT_ONCE = 2**16
_PER_BUCKET = 8
"""Held-out prompts of one bucket with which a training prompt is compared."""

_FILTER_BITS = 2**27

PAIR = [("number", "<u4"), ("table", "u1"), ("held_number", "<u4"), ("held_table", "u1")]
"""A training prompt and a held-out one that may say the same."""

Chosen = Callable[[int, Numbers], Flags]
"""Which rows, of a table by its index, are meant."""


class Signatures:
    """Takes prompts, and gives back the pairs of them that have to be compared."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "signatures"
        self._file = self._path.open("w+b")
        self._hasher = ShingleHasher()

    def add(self, table: int, numbers: Numbers, prompts: Sequence[str]) -> None:
        """These rows of the table have these prompts."""
        is_plain = np.fromiter(map(str.isascii, prompts), np.bool_, len(prompts))
        for alike in (is_plain, ~is_plain):  # words of ASCII are found faster by themselves
            some = list(compress(prompts, alike.tolist()))
            if some:
                self._add(table, numbers[alike], some)

    def _add(self, table: int, numbers: Numbers, prompts: Sequence[str]) -> None:
        shingles = self._hasher.shingles(prompts)
        offsets = np.concatenate([np.zeros(1, dtype=np.uint64), shingles.ends])
        permutations = BANDS * ROWS_PER_BAND
        digests = RMinHash.digest_matrix_from_flat_token_hashes(
            shingles.hashes, offsets, permutations, _SEED
        )
        minima = np.fromiter(chain.from_iterable(digests.to_rows()), dtype=np.uint64)
        bands = minima.reshape(len(prompts), BANDS, ROWS_PER_BAND)
        joined = np.zeros((len(prompts), BANDS), dtype=np.uint64)
        for row in range(ROWS_PER_BAND):
            joined = mixed(joined + bands[:, :, row] + np.uint64(row + 1))
        records = np.empty(len(prompts), dtype=_SIGNATURE)
        records["number"], records["table"] = numbers, table
        records["bands"] = (joined >> np.uint64(32)).astype(np.uint32)
        self._file.write(records.tobytes())

    def pairs(self, training: Chosen, held_out: Chosen) -> Iterator[Records]:
        """Pairs of a training and a held-out row whose prompts agree in a band, each pair once.

        Filters of fixed size keep on disk only what has a chance.
        """
        asked = _Filter()
        for records in self._chosen(held_out):
            asked.add(_buckets(records))
        buckets = Spill(self._folder, "buckets", _BUCKET, by_hash("high"))
        found = _Filter()
        for records in self._chosen(training):
            keys = _buckets(records)
            hits = asked.has(keys)
            found.add(keys[hits])
            buckets.add(_bucket_records(records, keys, hits, held_out=False))
        for records in self._chosen(held_out):
            keys = _buckets(records)
            buckets.add(_bucket_records(records, keys, found.has(keys), held_out=True))
        for part in buckets.parts():
            yield _pairs(part)
        buckets.remove()

    def remove(self) -> None:
        """Free the disk."""
        self._file.close()
        self._path.unlink()

    def _chosen(self, chosen: Chosen) -> Iterator[Records]:
        self._file.flush()
        self._file.seek(0)
        while block := self._file.read(_AT_ONCE * np.dtype(_SIGNATURE).itemsize):
            records: Records = np.frombuffer(block, dtype=_SIGNATURE)
            flags = np.zeros(len(records), dtype=np.bool_)
            for table in np.unique(records["table"]).tolist():
                mine = records["table"] == table
                flags[mine] = chosen(table, records["number"][mine])
            yield records[flags]


class _Filter:
    """A Bloom filter: it knows every key that was added, and takes few others for known."""

    def __init__(self) -> None:
        self._bits = np.zeros(_FILTER_BITS // 8, dtype=np.uint8)

    def add(self, keys: NDArray[np.uint64]) -> None:
        for places, bit in self._places(keys):
            np.bitwise_or.at(self._bits, places, bit)

    def has(self, keys: NDArray[np.uint64]) -> Flags:
        found = np.ones(keys.shape, dtype=np.bool_)
        for places, bit in self._places(keys):
            found &= (self._bits[places] & bit) > 0
        return found

    @staticmethod
    def _places(
        keys: NDArray[np.uint64],
    ) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.uint8]]]:
        for shift in (0, 20, 37):
            bit = (keys >> np.uint64(shift)) & np.uint64(_FILTER_BITS - 1)
            yield bit >> np.uint64(3), np.left_shift(1, (bit & np.uint64(7)).astype(np.uint8))


def _buckets(records: Records) -> NDArray[np.uint64]:
    """[row, band]: equal where two rows agree in the band."""
    bands = np.arange(1, BANDS + 1, dtype=np.uint64) << np.uint64(40)
    buckets: Hashes = mixed(records["bands"].astype(np.uint64) + bands)
    return buckets


def _bucket_records(
    records: Records, keys: NDArray[np.uint64], hits: Flags, *, held_out: bool
) -> Records:
    row, _ = np.nonzero(hits)
    kept = np.zeros(len(row), dtype=_BUCKET)
    kept["high"] = keys[hits]
    kept["number"], kept["table"] = records["number"][row], records["table"][row]
    kept["held_out"] = held_out
    return kept


def _pairs(part: Records) -> Records:
    records, bucket = grouped(part)
    order = np.lexsort((records["number"], records["table"], ~records["held_out"], bucket))
    records, bucket = records[order], bucket[order]
    count = int(bucket[-1]) + 1 if len(bucket) else 0
    starts = np.searchsorted(bucket, np.arange(count))
    held = np.bincount(bucket[records["held_out"]], minlength=count)
    found = []
    training = np.flatnonzero(~records["held_out"])
    of_bucket = bucket[training]
    for place in range(_PER_BUCKET):
        some = held[of_bucket] > place
        pairs = np.empty(int(np.count_nonzero(some)), dtype=PAIR)
        ours, theirs = records[training[some]], records[starts[of_bucket[some]] + place]
        pairs["number"], pairs["table"] = ours["number"], ours["table"]
        pairs["held_number"], pairs["held_table"] = theirs["number"], theirs["table"]
        found.append(pairs)
    return np.unique(np.concatenate(found))
