"""Files of lines that are not the lines their name promises, each told in one message.

A JSON document over several lines, a table of comma-separated values, running text named as JSONL,
or JSONL named as text would otherwise break a rule on each line.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

from rlhf_core.data.fast_json import quick_value
from rlhf_core.data.faults import Fault
from rlhf_core.data.physical_lines import Lines
from rlhf_core.data.shown_text import escaped
from rlhf_core.data.strict_json import JsonError, parse_json

SEVERAL_LINES = 4
"""Blocks of lines at a file's beginning that tell what it holds."""

_LOOKED_AT = 5
_LONG = 2**16
"""Characters beyond which a first line is not that of a document, nor of a table or a text."""


def other_line_format(
    name: str, head: Sequence[Lines], *, is_text: bool, is_whole: bool
) -> Fault | None:
    """The fault of a file that is of another kind than its name says; None where it is of that.

    `head` are its first blocks, and all of them where `is_whole` says so. `is_text` says that a
    line should be a row of text.
    """
    if any(block.oversized for block in head[:1]):
        return None
    first = list(islice(_texts(head), _LOOKED_AT))
    if not first:
        if any(block.oversized for block in head) or not is_whole:
            return None
        return Fault("DATA-001", name, 1, "", "blank lines and nothing else")
    if is_text:
        return _json_named_as_text(name, first) or _returns_alone(name, head)
    if len(first[0][1]) > _LONG or _is_object(first[0][1]):
        return None
    return _document(name, head, first, is_whole=is_whole) or _no_json(name, first)


def _texts(head: Sequence[Lines]) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not blank."""
    for block in head:
        for place, line in enumerate(block.lines):
            if line.strip():
                yield block.first + place, line.decode("utf-8", "replace")


def _is_object(text: str) -> bool:
    return isinstance(_value(text), dict)


def _value(text: str) -> object:
    """Some value of the text's type, or the error that keeps it from having any."""
    value = quick_value(text)
    if value is not None:
        return value
    try:
        return parse_json(text)
    except JsonError as error:
        return error


def _document(
    name: str, head: Sequence[Lines], first: Sequence[tuple[int, str]], *, is_whole: bool
) -> Fault | None:
    """The fault of one JSON value over several lines; None where the first line is just cut off."""
    start, opening = first[0]
    cut = _value(opening)
    if not isinstance(cut, JsonError) or not cut.cut or len(first) == 1:
        return None
    following = [text for _, text in first[1:4]]
    if all(_is_object(text) for text in following):
        return None
    lines = [line.decode("utf-8", "replace") for block in head for line in block.lines]
    text = "\n".join(lines[start - head[0].first :])
    found = _value(text)
    kind = "array" if opening.lstrip().startswith("[") else "object"
    several = f"one JSON {kind} over several lines, expected one object on each line"
    if isinstance(found, JsonError):
        line = start + text.count("\n", 0, found.place)
        goes_on = found.cut and not is_whole
        next_object = found.rule == "JSON-001" and text[: found.place].rstrip().endswith("}")
        if line == start + 1 and not goes_on and not next_object:
            return None  # the second line does not go on with the first
        if not goes_on and not next_object:
            column = found.place - (text.rfind("\n", 0, found.place) + 1) + 1
            _, _, said = found.seen.partition(": ")
            seen = f"column {column}: {said} (the file is {several})"
            return Fault(found.rule, name, line, found.field, seen)
    tool = "jq -c '.[]' FILE > NEW" if kind == "array" else "jq -c . FILE > NEW"
    seen = f"{several}; the file begins {escaped(opening.strip())}: `{tool}` makes lines of it"
    return Fault("DATA-004", name, start, "", seen)


def _no_json(name: str, first: Sequence[tuple[int, str]]) -> Fault | None:
    """The fault of a file of which no line so much as begins like a JSON object."""
    if len(first) < 2 or any(text.lstrip()[0] in "{[" for _, text in first):
        return None
    if any(not isinstance(_value(text), JsonError) for _, text in first):
        return None
    start, opening = first[0]
    separator = next((mark for mark in ",\t;" if all(mark in text for _, text in first)), None)
    looks, mend = "plain text", "name a file of text .txt, or write each row as a JSON object"
    if separator is not None:
        looks = f"a table separated by {separator!r}"
        mend = (
            f"`pandas.read_csv(FILE, sep={separator!r}).to_json(NEW, orient='records', lines=True)`"
        )
    seen = (
        f"no line is a JSON object, and the first is {escaped(opening.strip())}; it looks like "
        f"{looks}: {mend}"
    )
    return Fault("DATA-002", name, start, "", seen)


def _json_named_as_text(name: str, first: Sequence[tuple[int, str]]) -> Fault | None:
    if not all(text.lstrip().startswith("{") and _value(text) for _, text in first):
        return None
    if not all(_is_object(text) for _, text in first):
        return None
    renamed = name.rsplit("/", 1)[-1].replace(".txt", ".jsonl")
    seen = f"each line is a JSON object, but the file is named as text: rename it to {renamed}"
    return Fault("DATA-002", name, first[0][0], "", seen)


def _returns_alone(name: str, head: Sequence[Lines]) -> Fault | None:
    """The fault of a text whose lines end in CR alone, so that it would be one row."""
    lines = head[0].lines
    returns = lines[0].rstrip(b"\r").count(b"\r")
    if len(lines) > 1 or returns == 0:
        return None
    seen = (
        f"{returns + 1:,} lines that end in a carriage return (CR) alone: convert them, for "
        "example `tr '\\r' '\\n' < FILE > NEW`"
    )
    return Fault("DATA-002", name, head[0].first, "", seen)
