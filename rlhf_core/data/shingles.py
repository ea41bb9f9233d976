"""Texts as sets of word triples, by which texts that say nearly the same are found.

A word is what stands between white space and punctuation, without differences of case and of
compatibility characters (NFKC); where a script writes without spaces, each character is one.
"""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

_PUNCTUATION = ".,;:!?\"'`()[]{}<>*_#|~^“”‘’«»„‚…–—·、。「」『』【】〈〉《》؟،؛।॥¿¡"

_BREAKS = str.maketrans(dict.fromkeys(_PUNCTUATION, " "))

_UNSPACED = "\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
"""Thai, Lao, Tibetan, Burmese, Khmer, kana, Han."""

_WORDS = re.compile(rf"[{_UNSPACED}]|[^\s{re.escape(_PUNCTUATION)}{_UNSPACED}]+")

_BETWEEN = "\0"

_KNOWN_WORDS = 2**16

_FACTORS = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xC2B2AE3D27D4EB4F),
    np.uint64(0x165667B19E3779F9),
)
_SHIFT = np.uint64(32)


def words_of(text: str) -> list[str]:
    """The words of a text, in order."""
    if text.isascii():
        return text.lower().translate(_BREAKS).split()
    return _WORDS.findall(unicodedata.normalize("NFKC", text).casefold())


class Shingles:
    """The word triples of some texts, as 64-bit hashes.

    Two blanks stand between texts, and belong to the triples of both: so many triples hold a text's
    first and last word as any other.
    """

    def __init__(self, hashes: NDArray[np.uint64], ends: NDArray[np.uint64]) -> None:
        self.hashes = hashes
        self.ends = ends

    def of(self, place: int) -> NDArray[np.uint64]:
        """The distinct triples of one text."""
        start = int(self.ends[place - 1]) if place else 0
        return np.unique(self.hashes[start : int(self.ends[place])])


class ShingleHasher:
    """Hashes word triples; it remembers the hashes of the words that it has seen."""

    def __init__(self) -> None:
        self._known = _Words({_BETWEEN: 0})

    def shingles(self, texts: Sequence[str]) -> Shingles:
        """The word triples of the texts, of which none holds a NUL."""
        if len(self._known) > _KNOWN_WORDS:
            self._known = _Words({_BETWEEN: 0})
        # All words at once: two blanks stand before each text and two behind the last.
        joint = f" {_BETWEEN} {_BETWEEN} "
        words = words_of(joint + joint.join(texts) + joint)
        of_words = np.fromiter(map(self._known.__getitem__, words), np.uint64, len(words))
        first, second, third = of_words[:-2], of_words[1:-1], of_words[2:]
        triples = first * _FACTORS[0] + second * _FACTORS[1] + third * _FACTORS[2]
        triples = (triples ^ (triples >> _SHIFT)) * _FACTORS[1]
        blanks = np.flatnonzero(of_words == 0)
        return Shingles(triples ^ (triples >> _SHIFT), blanks[2::2].astype(np.uint64))


class _Words(dict[str, int]):
    def __missing__(self, word: str) -> int:
        hashed = self[word] = xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass")) | 1
        return hashed


def jaccard(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> float:
    """What two sets of distinct triples share, of all that they have."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    together = len(one) + len(other) - shared
    return shared / together if together else 1.0


def numbers_in(text: str) -> list[str]:
    """The words of a text that hold a digit, sorted: questions about other numbers are others."""
    return sorted(word for word in words_of(text) if any(map(str.isdigit, word)))
