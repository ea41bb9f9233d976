"""What is odd in a text: blanks that look like something, turned directions, garbled letters."""

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

_OVERRIDE = re.compile("[\u202d\u202e]")

_GARBLED = re.compile(
    "\ufffd"  # what decoders put where they could not decode
    "|[\u0080-\u0084\u0086-\u009f]"  # Windows-1252 read as Latin-1; U+0085 is a line break of old
    "|â€[\u2122œ˜¦“”\u009d\u0099\u009c]"  # UTF-8 read as Windows-1252: dashes and quotes,
    "|Ã[©¨¡³±¼¶¤§¢´\u00ad]|Â[£©°·¿¡]"  # Latin letters and signs,
    "|(?:[ÐÑ][\u0080-\u00bf‚„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ€]){3}"  # and Cyrillic
)

_MAY_BE_ODD = re.compile(
    rb"\xc2[\x80-\x84\x86-\x9f]"
    rb"|\xc3(?:\xa2\xe2\x82\xac|\x83\xc2|\x82\xc2|[\x90\x91][\xc2\xc5\xe2\xcb])"
)
"""In UTF-8, what all but three single characters of the above begin with."""

_ODD_BYTES = (b"\xe2\x80\xad", b"\xe2\x80\xae", b"\xef\xbf\xbd")


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


def certainly_even(text: str) -> bool:
    """Whether `oddities` finds nothing in the text, told at the speed at which memory is read.

    False says nothing.
    """
    if text.isascii():
        return True
    content = text.encode("utf-8", "surrogatepass")
    if any(odd in content for odd in _ODD_BYTES):
        return False
    return _MAY_BE_ODD.search(content) is None


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
