"""What a usable row is, as pandera schemas; every row that is not is named with its rule."""

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaErrors

from rlhf_core.data.rows import Row
from rlhf_core.data.rules import Fault

TableName = Literal["demonstrations", "preferences", "prompts", "text"]

_ALLOWED_CONTROLS = frozenset("\t\n\r\v\f")


class _Text(NamedTuple):
    row: Row
    field: str
    text: str


def _is_blank(text: str) -> bool:
    return all(character.isspace() or unicodedata.category(character) == "Cf" for character in text)


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


TEXTS = pa.DataFrameSchema(
    {
        "is_blank": pa.Column(bool, pa.Check(lambda found: ~found, name="TXT-001")),
        "surrogate_at": pa.Column(int, pa.Check(lambda place: place < 0, name="TXT-002")),
        "control_at": pa.Column(int, pa.Check(lambda place: place < 0, name="TXT-003")),
    }
)
"""Every prompt and response: something to read, and encodable.

The frame holds what was found in a text, not the text: pandas cannot hold half a character, and
pandera's messages would quote it.
"""

ROWS = pa.DataFrameSchema(
    {
        "no_preference": pa.Column(bool, pa.Check(lambda found: ~found, name="PREF-002")),
        "equal_yet_ranked": pa.Column(bool, pa.Check(lambda found: ~found, name="PREF-004")),
        "contradicts": pa.Column(bool, pa.Check(lambda found: ~found, name="PREF-005")),
        "repeats": pa.Column(bool, pa.Check(lambda found: ~found, name="DUP-001")),
    }
)
"""Every row of a table, beside the rows before it: it prefers something, and says so once."""


def check_rows(rows: Sequence[Row], table: TableName) -> list[Fault]:
    """The faults of the rows by the schemas above, in the order of the rows."""
    if not rows:
        return []
    texts = list(_texts(rows, table))
    text_frame = pd.DataFrame(
        {
            "is_blank": [_is_blank(text.text) for text in texts],
            "surrogate_at": [_surrogate(text.text) for text in texts],
            "control_at": [_control(text.text) for text in texts],
        }
    )
    faults = [
        Fault(
            rule,
            texts[place].row.file,
            texts[place].row.line,
            texts[place].field,
            _seen_in_text(rule, texts[place].text),
        )
        for rule, place in _failures(TEXTS, text_frame)
    ]
    contradicted, repeated = _contradicted(rows), _repeated(rows, table)
    row_frame = pd.DataFrame(
        {
            "no_preference": [bool(row.ranks) and len(set(row.ranks)) == 1 for row in rows],
            "equal_yet_ranked": [_equal_yet_ranked(row) for row in rows],
            "contradicts": [earlier is not None for earlier in contradicted],
            "repeats": [earlier is not None for earlier in repeated],
        }
    )
    for rule, place in _failures(ROWS, row_frame):
        row = rows[place]
        field, seen = {
            "PREF-002": ("ranks", f"all {len(row.ranks)} ranks are equal"),
            "PREF-004": ("rejected", "responses of different rank are one text after trimming"),
            "PREF-005": ("chosen", f"the row says the opposite of {contradicted[place]}"),
            "DUP-001": ("prompt", f"the row is equal to {repeated[place]}"),
        }[rule]
        faults.append(Fault(rule, row.file, row.line, field, seen))
    order = {(row.file, row.line): place for place, row in enumerate(rows)}
    return sorted(faults, key=lambda fault: order[fault.file, fault.line])


def field_names(row: Row) -> list[str]:
    """What the responses of a row are called in messages."""
    if row.ranks == (1, 2):
        return ["chosen", "rejected"]
    if len(row.responses) == 1:
        return ["response"]
    return [f"responses[{place}]" for place in range(len(row.responses))]


def _texts(rows: Sequence[Row], table: TableName) -> Iterator[_Text]:
    for row in rows:
        yield _Text(row, "text" if table == "text" else "prompt", row.prompt)
        for field, response in zip(field_names(row), row.responses, strict=True):
            yield _Text(row, field, response)


def _failures(schema: pa.DataFrameSchema, frame: pd.DataFrame) -> list[tuple[str, int]]:
    """The rule and the row of the frame of every check that fails."""
    try:
        schema.validate(frame, lazy=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases
        return [
            (str(rule), int(place))
            for rule, place in zip(cases["check"], cases["index"], strict=True)
        ]
    return []


def _seen_in_text(rule: str, text: str) -> str:
    if rule == "TXT-001":
        return f"{len(text)} characters, all of them blank"
    place = _surrogate(text) if rule == "TXT-002" else _control(text)
    return f"U+{ord(text[place]):04X} at character {place + 1}"


def _repeated(rows: Sequence[Row], table: TableName) -> list[str | None]:
    """For each row that was there before: where it stood first; running text may repeat itself."""
    if table == "text":
        return [None] * len(rows)
    first: dict[object, str] = {}
    found: list[str | None] = []
    for row in rows:
        ranked = sorted(zip(row.ranks, row.responses, strict=True)) if row.ranks else row.responses
        content = row.prompt if table == "prompts" else (row.prompt, tuple(ranked))
        here = f"{row.file}:{row.line}"
        earlier = first.setdefault(content, here)
        found.append(None if earlier == here else earlier)
    return found


def _contradicted(rows: Sequence[Row]) -> list[str | None]:
    """For each row that reverses a comparison made before it: where that was made."""
    first: dict[tuple[str, str, str], str] = {}
    found: list[str | None] = []
    for row in rows:
        ranked = list(zip(row.ranks, row.responses, strict=False))
        here = f"{row.file}:{row.line}"
        wins = [(a, b) for rank, a in ranked for other, b in ranked if rank < other and a != b]
        earlier = (first.get((row.prompt, worse, better)) for better, worse in wins)
        found.append(next((place for place in earlier if place not in (None, here)), None))
        for better, worse in wins:
            first.setdefault((row.prompt, better, worse), here)
    return found
