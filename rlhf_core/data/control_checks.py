"""Rows whose texts spell control tokens or turn markers, each with what stands where (C11)."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate

from rlhf_core.data.control_tokens import ControlTokens, Spelling, any_of
from rlhf_core.data.dialogues import ASSISTANT, HUMAN, is_transcript
from rlhf_core.data.faults import Fault
from rlhf_core.data.rows import Row
from rlhf_core.data.schemas import TableName, field_names
from rlhf_core.data.shown_text import escaped

_MARKERS = re.compile(any_of((HUMAN, ASSISTANT)))

_JOINT = "\0"
"""Between texts: a pattern that matches across it is one more row to look at."""


def text_fields(row: Row, table: TableName) -> Iterator[tuple[str, str]]:
    """The texts of a row, each with the name of its field."""
    yield "text" if table == "text" else "prompt", row.prompt
    yield from zip(field_names(row), row.responses, strict=True)


def check_control_tokens(
    rows: Sequence[Row], table: TableName, tokens: ControlTokens, *, end: str | None
) -> list[Fault]:
    """A fault for every prompt, response and text that spells a control token.

    Running text may hold the token for what is unknown: word-level corpora such as WikiText write
    it for their rare words. `end` is the token with which training ends a response by itself.
    """
    if table == "text":
        tokens = tokens.without_unknown()
    faults = []
    for row in rows_with(tokens.pattern, rows) if tokens.normalized is None else rows:
        for field, text in text_fields(row, table):
            spelt = list(tokens.spelt_in(text))
            if spelt:
                seen = _seen(text, spelt, None if field in ("prompt", "text") else end)
                faults.append(Fault("TOK-001", row.file, row.line, field, seen))
    return faults


def check_turn_markers(rows: Sequence[Row], table: TableName) -> list[Fault]:
    """A warning for every text in which a dialogue's turn marker stands and marks no turn."""
    if table == "text":
        return []
    faults = []
    for row in rows_with(_MARKERS, rows):
        for field, text in text_fields(row, table):
            found = _MARKERS.search(text)
            if found is not None and not (field == "prompt" and is_transcript(text)):
                seen = f"a turn marker at {_where(text, found.start())}"
                faults.append(Fault("TOK-003", row.file, row.line, field, seen))
    return faults


class JoinedRows(list[Row]):
    """Rows whose texts are joined once, for all patterns that are looked for in them."""

    @cached_property
    def texts(self) -> list[str]:
        """The texts of each row as one."""
        return [
            row.prompt if not row.responses else _JOINT.join((row.prompt, *row.responses))
            for row in self
        ]

    @cached_property
    def joined(self) -> str:
        """The texts of all rows as one."""
        return _JOINT.join(self.texts)


def rows_with(pattern: re.Pattern[str], rows: Sequence[Row]) -> list[Row]:
    """The rows that may hold a text with the pattern, found in all texts at once."""
    if not isinstance(rows, JoinedRows):
        rows = JoinedRows(rows)
    joined = rows.joined
    found: list[Row] = []
    match = pattern.search(joined)
    if match is None:
        return found
    ends = list(accumulate(len(text) + 1 for text in rows.texts))
    while match is not None:
        place = bisect_right(ends, match.start())
        found.append(rows[place])
        match = pattern.search(joined, ends[place])
    return found


def _seen(text: str, spelt: Sequence[Spelling], end: str | None) -> str:
    first = spelt[0]
    seen = f"{escaped(first.token)} at {_where(text, first.place)}"
    if len(spelt) > 1:
        others = {one.token for one in spelt[1:]} - {first.token}
        more = f", {escaped(min(others))} among them" if others else ""
        seen += f" and {len(spelt) - 1} more{more}"
    if end is not None and text.rstrip().endswith(end):
        seen += "; the response ends in the end token, which training appends by itself"
    return seen


def _where(text: str, place: int) -> str:
    """The place in words: of a transcript in which message, counted from 0 as a program does."""
    marks = list(_MARKERS.finditer(text, 0, place)) if is_transcript(text) else []
    if not marks:
        return f"character {place + 1}"
    index = len(marks) - (marks[0].start() == 0)  # what stands before the first is the system's
    return f"character {place - marks[-1].end()} of the message at index {index}"
