"""What is odd in a text: blanks that look like something, turned directions, garbled letters."""

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_OVERRIDE = re.compile("[\u202d\u202e]")

_GARBLED = re.compile(
    "\ufffd"  # what decoders put where they could not decode
    "|[\u0080-\u0084\u0086-\u009f]"  # Windows-1252 read as Latin-1; U+0085 is a line break of old
    "|â€[\u2122œ˜¦“”\u009d\u0099\u009c]"  # UTF-8 read as Windows-1252: dashes and quotes,
    "|Ã[©¨¡³±¼¶¤§¢´\u00ad]|Â[£©°·¿¡]"  # Latin letters and signs,
    "|(?:[ÐÑ][\u0080-\u00bf‚„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ€]){3}"  # and Cyrillic
)

_GARBLED_SECOND = (0x82, 0x83, 0x90, 0x91, 0xA2)
_LEADS = (0xC2, 0xC5, 0xCB, 0xE2)
"""In UTF-8, the second byte of Â, Ã, Ð, Ñ and â, and the first that follows where garbled."""


class Oddity(NamedTuple):
    """The rule that a text breaks, and what stood there."""

    rule: str
    seen: str


_UNSEEN = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0\ufe00\ufe0e\ufe0f")
"""Fillers and joiners that are letters or marks by their category, and show nothing."""


def is_blank(text: str) -> bool:
    """Whether nothing in the text can be seen: white space, or characters of no width."""
    first = text[:1]
    if first.isprintable() and first not in (" ", "") and first not in _UNSEEN:
        return False
    return all(
        character.isspace() or unicodedata.category(character) == "Cf" or character in _UNSEEN
        for character in text
    )


def odd_places(content: bytes) -> NDArray[np.int64]:
    """Offsets in UTF-8 at which `oddities` may find something, told many texts at a time."""
    if content.isascii():
        return np.zeros(0, dtype=np.int64)
    codes = np.frombuffer(content + bytes(4), dtype=np.uint8)
    control = _after(codes, 0xC2)
    latin = _after(codes, 0xC3)
    general, special = _after(codes, 0xE2), _after(codes, 0xEF)
    second = codes[latin]
    read_twice = np.isin(codes[latin + 1], _LEADS) & np.isin(second, _GARBLED_SECOND)
    found = (
        control[(codes[control] < 0xA0) & (codes[control] != 0x85)],
        latin[read_twice],
        general[(codes[general] == 0x80) & np.isin(codes[general + 1], (0xAD, 0xAE))],
        special[(codes[special] == 0xBF) & (codes[special + 1] == 0xBD)],
    )
    return np.sort(np.concatenate(found))


def _after(codes: NDArray[np.uint8], lead: int) -> NDArray[np.int64]:
    return np.flatnonzero(codes == lead) + 1


def oddities(text: str) -> Iterator[Oddity]:
    """The first override of direction in the text, and the first garbled place."""
    override = _OVERRIDE.search(text)
    if override is not None:
        yield Oddity("TXT-005", _place(override))
    garbled = _GARBLED.search(text)
    if garbled is not None:
        yield Oddity("TXT-006", _place(garbled))


def _place(match: re.Match[str]) -> str:
    found = match.group()
    named = " ".join(f"U+{ord(character):04X}" for character in found[:4])
    shown = f" ({found})" if found.isprintable() and len(found) > 1 else ""
    return f"{named}{shown} at character {match.start() + 1}"
