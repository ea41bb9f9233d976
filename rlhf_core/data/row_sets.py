"""Sets of rows by number, at one bit a row."""

from typing import Self

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.uint32]
Flags = NDArray[np.bool_]


class RowSet:
    """Some of the rows of one table; it grows with the numbers that are added."""

    def __init__(self, bits: NDArray[np.uint8] | None = None) -> None:
        self._bits = np.zeros(0, dtype=np.uint8) if bits is None else bits

    @classmethod
    def first(cls, count: int) -> Self:
        """The rows of all numbers below `count`."""
        return cls(np.packbits(np.ones(count, dtype=np.bool_), bitorder="little"))

    def add(self, numbers: Numbers) -> None:
        """These rows belong to it too."""
        if not len(numbers):
            return
        needed = int(numbers.max()) // 8 + 1
        if needed > len(self._bits):
            more = max(needed, 2 * len(self._bits)) - len(self._bits)
            self._bits = np.concatenate([self._bits, np.zeros(more, dtype=np.uint8)])
        np.bitwise_or.at(self._bits, numbers >> 3, self._bit(numbers))

    def has(self, numbers: Numbers) -> Flags:
        """Which of these rows belong to it."""
        found = np.zeros(len(numbers), dtype=np.bool_)
        known = numbers >> 3 < len(self._bits)
        inside = numbers[known]
        found[known] = (self._bits[inside >> 3] & self._bit(inside)) > 0
        return found

    def __len__(self) -> int:
        return int(np.bitwise_count(self._bits).sum())

    def __and__(self, other: Self) -> Self:
        shared = min(len(self._bits), len(other._bits))
        return type(self)(self._bits[:shared] & other._bits[:shared])

    def __or__(self, other: Self) -> Self:
        larger, smaller = sorted((self._bits, other._bits), key=len, reverse=True)
        joined = larger.copy()
        joined[: len(smaller)] |= smaller
        return type(self)(joined)

    def __sub__(self, other: Self) -> Self:
        left = self._bits.copy()
        shared = min(len(left), len(other._bits))
        left[:shared] &= ~other._bits[:shared]
        return type(self)(left)

    @staticmethod
    def _bit(numbers: Numbers) -> NDArray[np.uint8]:
        return np.left_shift(1, (numbers & 7).astype(np.uint8), dtype=np.uint8)
