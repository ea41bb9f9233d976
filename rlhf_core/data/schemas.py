"""What a usable row is, by the schemas of `row_schemas`; every other is named with its rule.

The schemas are loaded once there is a row that is not certainly in order.
"""

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlhf_core.data.batches import RowBatch, Texts
from rlhf_core.data.faults import Fault
from rlhf_core.data.rows import Row
from rlhf_core.data.texts import is_blank

TableName = Literal["demonstrations", "preferences", "prompts", "text"]

_NOTHING = "nothing, or nothing but white space"

_ALLOWED_CONTROLS = frozenset("\t\n\r\v\f")

_IS_ODD = np.array([chr(byte) not in _ALLOWED_CONTROLS for byte in range(0x20)])
"""Of each control character."""


class _Text(NamedTuple):
    place: int
    field: str
    text: str


def _surrogate(text: str) -> int:
    """Place of the first lone surrogate; -1 where there is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return -1


def _control(text: str) -> int:
    """Place of the first NUL or other C0 control that is no white space; -1 for none."""
    if text.isprintable():
        return -1
    for place, character in enumerate(text):
        if (character < " " or character == "\x7f") and character not in _ALLOWED_CONTROLS:
            return place
    return -1


def _comparable(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip())


def _equal_yet_ranked(row: Row) -> bool:
    """Whether one text has two different ranks."""
    if not row.ranks:
        return False
    texts = [_comparable(response) for response in row.responses]
    return len(set(zip(texts, row.ranks, strict=True))) > len(set(texts))


def check_batch(batch: RowBatch, table: TableName) -> list[tuple[int, Fault]]:
    """The faults of the rows by the schemas, each with its row's number, row after row.

    The schemas see the rows that are not certainly in order.
    """
    doubtful = np.flatnonzero(_doubtful_texts(batch) | _doubtful_ranks(batch)).tolist()
    if not doubtful:
        return []
    rows = [batch.rows[place] for place in doubtful]
    faults = [*_text_faults(rows, table), *_row_faults(rows)]
    faults.sort(key=lambda found: found[0])
    return [(int(batch.numbers[doubtful[place]]), fault) for place, fault in faults]


def _doubtful_texts(batch: RowBatch) -> NDArray[np.bool_]:
    """Which rows have a text that may be blank, be half a character or hold a control character."""
    doubtful = _odd_texts(batch.prompts)
    if len(batch.responses):
        of_row = np.repeat(np.arange(len(batch)), batch.response_counts)
        doubtful[of_row[_odd_texts(batch.responses)]] = True
    return doubtful


def _odd_texts(texts: Texts) -> NDArray[np.bool_]:
    data, starts, ends = texts.data, texts.offsets[:-1], texts.offsets[1:]
    first = data[starts]
    odd: NDArray[np.bool_] = (first <= 0x20) | (first >= 0x7F) | (starts == ends)
    for place in np.flatnonzero(odd).tolist():
        odd[place] = is_blank(texts.texts[place])
    controls = np.flatnonzero(data[:-2] < 0x20)
    deleted = np.flatnonzero(data[:-2] == 0x7F)
    halves = np.flatnonzero(data[:-2] == 0xED)
    found = (controls[_IS_ODD[data[controls]]], deleted, halves[data[halves + 1] >= 0xA0])
    odd[np.searchsorted(ends, np.concatenate(found), side="right")] = True
    return odd


def _doubtful_ranks(batch: RowBatch) -> NDArray[np.bool_]:
    """Which rows may prefer nothing, or a text to itself."""
    counts, ranks = batch.response_counts, batch.ranks
    last = np.cumsum(counts) - 1
    ranked = (counts > 0) & (ranks[np.maximum(last, 0)] > 0) if len(ranks) else counts > 0
    doubtful: NDArray[np.bool_] = ranked
    of_two = np.flatnonzero(ranked & (counts == 2))
    one, other = last[of_two] - 1, last[of_two]
    certain = (ranks[one] != ranks[other]) & _begin_apart(batch.responses, one, other)
    doubtful[of_two[certain]] = False
    for place in np.flatnonzero(doubtful).tolist():
        row = batch.rows[place]
        if len(set(row.ranks)) > 1:
            trimmed = {_trimmed(response) for response in row.responses}
            doubtful[place] = len(trimmed) < len(row.responses)
    return doubtful


def _begin_apart(
    texts: Texts, one: NDArray[np.int64], other: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which texts surely differ from their partners, since they begin with other letters.

    These are ASCII and no white space, and what follows is no mark that could be joined to them.
    """
    data, starts = texts.data, texts.offsets
    ours, theirs = starts[one], starts[other]
    plain = np.ones(len(one), dtype=np.bool_)
    for start in (ours, theirs):
        plain &= (data[start] > 0x20) & (data[start] < 0x7F) & (data[start + 1] < 0x80)
    differs: NDArray[np.bool_] = plain & (data[ours] != data[theirs])
    return differs


def _trimmed(text: str) -> str:
    return text.strip() if text.isascii() else _comparable(text)


def _text_faults(rows: Sequence[Row], table: TableName) -> list[tuple[int, Fault]]:
    from rlhf_core.data.row_schemas import TEXTS, failures

    texts = list(_texts(rows, table))
    columns: dict[str, Sequence[object]] = {
        "is_blank": [is_blank(text.text) for text in texts],
        "surrogate_at": [_surrogate(text.text) for text in texts],
        "control_at": [_control(text.text) for text in texts],
    }
    found = []
    for rule, index in failures(TEXTS, columns):
        place, field, text = texts[index]
        row = rows[place]
        fault = Fault(rule, row.file, row.line, field, _seen_in_text(rule, text))
        found.append((place, fault))
    return found


def _row_faults(rows: Sequence[Row]) -> list[tuple[int, Fault]]:
    from rlhf_core.data.row_schemas import ROWS, failures

    columns: dict[str, Sequence[object]] = {
        "no_preference": [bool(row.ranks) and len(set(row.ranks)) == 1 for row in rows],
        "equal_yet_ranked": [_equal_yet_ranked(row) for row in rows],
    }
    found = []
    for rule, place in failures(ROWS, columns):
        row = rows[place]
        if rule == "PREF-002":
            field, seen = "ranks", f"all {len(row.ranks)} ranks are equal"
        else:
            field, seen = _seen_twice(row)
        found.append((place, Fault(rule, row.file, row.line, field, seen)))
    return found


def field_names(row: Row) -> list[str]:
    """What the responses of a row are called in messages."""
    if row.ranks == (1, 2):
        return ["chosen", "rejected"]
    if len(row.responses) == 1:
        return ["response"]
    return [f"responses[{place}]" for place in range(len(row.responses))]


def _seen_twice(row: Row) -> tuple[str, str]:
    """Of a row that ranks one text in two ways: the first field of the two, and what they hold."""
    texts = [_comparable(response) for response in row.responses]
    later, earlier = next(
        (later, earlier)
        for later in range(len(texts))
        for earlier in range(later)
        if texts[later] == texts[earlier] and row.ranks[later] != row.ranks[earlier]
    )
    names = field_names(row)
    digest = hashlib.sha256(texts[later].encode("utf-8", "surrogatepass")).hexdigest()[:8]
    trimmed = {row.responses[place].strip() for place in (earlier, later)}
    how = "trimming" if len(trimmed) == 1 else "trimming and bringing both to Unicode's NFC"
    return names[earlier], (
        f"{names[earlier]} and {names[later]} are the same {len(texts[later])} characters after "
        f"{how} (sha256 {digest}...)"
    )


def _texts(rows: Sequence[Row], table: TableName) -> Iterator[_Text]:
    for place, row in enumerate(rows):
        yield _Text(place, "text" if table == "text" else "prompt", row.prompt)
        for field, response in zip(field_names(row), row.responses, strict=True):
            yield _Text(place, field, response)


def _seen_in_text(rule: str, text: str) -> str:
    if rule == "TXT-001":
        shown = " ".join(f"U+{ord(character):04X}" for character in text[:4])
        return f"{len(text)} characters, all of them blank: {shown}" if text else _NOTHING
    place = _surrogate(text) if rule == "TXT-002" else _control(text)
    return f"U+{ord(text[place]):04X} at character {place + 1}"
