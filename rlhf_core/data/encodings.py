"""Bytes that are not UTF-8: what they most likely are, and the command that mends them."""

import re
from collections.abc import Sequence
from typing import NamedTuple

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_WIDE_MARKS = (
    (b"\xff\xfe\0\0", "UTF-32LE", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32BE", "UTF-32"),
    (b"\xff\xfe", "UTF-16LE", "UTF-16"),
    (b"\xfe\xff", "UTF-16BE", "UTF-16"),
)
"""First bytes, the encoding that they are of, and the name under which iconv drops them."""

_SEQUENCE = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)

_KANA = re.compile("[ぁ-んァ-ヶ]")

_EAST_ASIAN = (
    # encoding, iconv's name, letters that its texts are full of, and their least share there
    ("shift_jis", "SHIFT_JIS", _KANA, 0.3),
    ("euc_jp", "EUC-JP", _KANA, 0.3),
    ("euc_kr", "EUC-KR", re.compile("[가-힣]"), 0.8),
    ("gb18030", "GB18030", re.compile("[的一是不了人我在有他这为大来以个中上们你好吗，。]"), 0.15),
    ("big5", "BIG5", re.compile("[的一是不了人我在有他這為大來以個中上們你好嗎，。]"), 0.15),
)

_CYRILLIC = (("cp1251", "CP1251"), ("koi8_r", "KOI8-R"))
_LOWER_CYRILLIC = re.compile("[а-яё]")


_ASCII = bytes(range(0x80))


_WIDE = (
    ("UTF-32LE", (1, 2, 3), (0,)),
    ("UTF-32BE", (0, 1, 2), (3,)),
    ("UTF-16LE", (1, 3), (0, 2)),
    ("UTF-16BE", (0, 2), (1, 3)),
)
"""Of four bytes, those that are zero in ASCII text, and the others."""


class Guess(NamedTuple):
    """A name for people, and how to mend a file of it."""

    name: str
    mend: str


def wide_encoding(start: bytes) -> Guess | None:
    """UTF-16 or UTF-32, told by a mark or by where the zero bytes stand; None for neither."""
    for mark, name, known_to_iconv in _WIDE_MARKS:
        if start.startswith(mark):
            return _converted(f"{name[:-2]} text with a byte-order mark", known_to_iconv)
    usable = start[: len(start) // 4 * 4]
    for name, wide, narrow in _WIDE if usable else ():
        # RFC 4627, section 3: a JSON text begins with two ASCII characters
        first = all(usable[place] == 0 for place in wide) and all(
            0x20 <= usable[place] < 0x7F for place in narrow
        )
        if first or _stands_so(usable, name, wide, narrow):
            return _converted(f"{name} text without a byte-order mark", name)
    return None


def _stands_so(usable: bytes, name: str, wide: Sequence[int], narrow: Sequence[int]) -> bool:
    """Whether zeros stand where characters of the encoding have them, and text comes of it."""
    zeros = [usable[place::4].count(0) / (len(usable) // 4) for place in range(4)]
    least = min(zeros[place] for place in wide)
    if least < 0.15 or max(zeros[place] for place in narrow) > least / 4:
        return False
    text = usable.decode(name, "ignore")
    return sum(" " <= character < "\x7f" for character in text) * 20 > len(text)


def guess_encoding(line: bytes, place: int) -> Guess:
    """What a line is whose byte at `place` cannot be UTF-8."""
    broken = line[place : place + 4]
    if broken[:1] in (b"\xc0", b"\xc1") or broken[:2] in _OVERLONG:
        return Guess(
            "an overlong form, as Java's modified UTF-8 has it for NUL",
            "write the file again with an encoder of standard UTF-8",
        )
    if broken[:1] == b"\xed" and broken[1:2] >= b"\xa0":
        return Guess(
            "half a surrogate pair written as UTF-8 (CESU-8)",
            "write the file again with an encoder of standard UTF-8, four bytes for each such "
            "character",
        )
    return _by_its_letters(line) or Guess(
        "damaged UTF-8",
        "restore the character from where the text came from, or drop the broken bytes: "
        "`iconv -c -f UTF-8 -t UTF-8 FILE > NEW`",
    )


_OVERLONG = tuple(bytes((0xE0, second)) for second in range(0x80, 0xA0)) + tuple(
    bytes((0xF0, second)) for second in range(0x80, 0x90)
)


def _by_its_letters(line: bytes) -> Guess | None:
    """An older encoding in which the line reads as text; None where most of it is UTF-8."""
    high = len(line.translate(None, _ASCII))
    in_sequences = sum(len(found) for found in _SEQUENCE.findall(line))
    if in_sequences and 2 * in_sequences >= high:
        return None
    if not line.translate(None, _ASCII + b"\xfe\xff"):  # bytes that no letter needs
        return None
    if high >= 4:
        for encoding, name, letters, share in _EAST_ASIAN:
            decoded = _decoded(line, encoding)
            beyond = sum(character > "\x7f" for character in decoded)
            if len(letters.findall(decoded)) > share * beyond > 0:
                return _converted(f"{name} text", name)
        runs = re.findall(rb"[\x80-\xff]{3,}", line)
        if 2 * sum(map(len, runs)) > high:
            scored = [
                (len(_LOWER_CYRILLIC.findall(_decoded(line, encoding))), name)
                for encoding, name in _CYRILLIC
            ]
            lower, name = max(scored)
            if 2 * lower > high:
                return _converted(f"{name} text", name)
    if re.search(rb"[\x80-\x9f]", line):
        if not re.search(rb"[\x81\x8d\x8f\x90\x9d]", line):
            return _converted("Windows-1252 text", "CP1252")
        return None
    return _converted("Latin-1 text", "ISO-8859-1")


def _decoded(line: bytes, encoding: str) -> str:
    try:
        return line.decode(encoding)
    except UnicodeDecodeError:
        return ""


def _converted(name: str, known_to_iconv: str) -> Guess:
    return Guess(name, f"`iconv -f {known_to_iconv} -t UTF-8 FILE > NEW`")
