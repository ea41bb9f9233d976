"""Rows of text files: a JSON object on each line, or a line of text where the name says so."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice

from rlhf_core.data.encodings import BYTE_ORDER_MARK, guess_encoding
from rlhf_core.data.fast_json import certain_objects, quick_value
from rlhf_core.data.faults import Fault
from rlhf_core.data.line_formats import SEVERAL_LINES, other_line_format
from rlhf_core.data.physical_lines import (
    MAX_ROW_BYTES,
    BrokenFileError,
    EndlessLineError,
    Lines,
)
from rlhf_core.data.raw_rows import RawRow, type_in_words
from rlhf_core.data.strict_json import JsonError, parse_json

_TO_LINES = "`jq -c '.[]' FILE > NEW` gives each value of a list a line of its own"


def json_rows(name: str, blocks: Iterable[Lines]) -> Iterator[RawRow | Fault]:
    """A row from each line that is not blank and holds one JSON object; a fault from the others."""
    for block in _readable(name, blocks, is_text=False):
        if isinstance(block, Fault):
            yield block
            continue
        number = block.first
        for place, fields in enumerate(certain_objects(block.lines)):
            if fields is not None:
                yield RawRow(name, number + place, fields)
            else:
                found = _json_row(name, block, place)
                if found is not None:
                    yield found


def text_rows(name: str, blocks: Iterable[Lines]) -> Iterator[RawRow | Fault]:
    """A row from each line that is not blank, under the name `text`."""
    for block in _readable(name, blocks, is_text=True):
        if isinstance(block, Fault):
            yield block
            continue
        for place, line in enumerate(block.lines):
            content = line.removesuffix(b"\r")
            if content.strip():
                text = _decoded(name, block, place, content)
                number = block.first + place
                if isinstance(text, Fault):
                    yield text._replace(field="text")
                else:
                    yield RawRow(name, number, {"text": text})


def _readable(name: str, blocks: Iterable[Lines], *, is_text: bool) -> Iterator[Lines | Fault]:
    """The blocks of the file, a fault for each oversized one; one alone for another format."""
    head, blocks, is_whole = _begun(blocks, 1 if is_text else SEVERAL_LINES)
    yield from _mark_at_start(name, head)
    other = other_line_format(name, head, is_text=is_text, is_whole=is_whole)
    if other is not None:
        yield other
        return
    for block in chain(head, blocks):
        yield _oversized(name, block) if block.oversized else block


def _begun(blocks: Iterable[Lines], count: int) -> tuple[list[Lines], Iterator[Lines], bool]:
    """The first blocks, the others, and whether there are none.

    Where the file breaks among the first ones, the others raise what says so.
    """
    rest = iter(blocks)
    head: list[Lines] = []
    try:
        head.extend(islice(rest, count))
    except (BrokenFileError, EndlessLineError) as error:
        return head, _broken(error), False
    return head, rest, len(head) < count


def _broken(error: Exception) -> Iterator[Lines]:
    yield from ()
    raise error


def _mark_at_start(name: str, head: list[Lines]) -> Iterator[Fault]:
    """A note of a byte-order mark at the file's beginning, which is taken away."""
    if head and head[0].first == 1 and head[0].lines[0].startswith(BYTE_ORDER_MARK):
        head[0].lines[0] = head[0].lines[0][len(BYTE_ORDER_MARK) :]
        head[0].offset += len(BYTE_ORDER_MARK)
        seen = "a byte-order mark (EF BB BF) at the beginning of the file; it was left out"
        yield Fault("ENC-003", name, 1, "", seen)


def _json_row(name: str, block: Lines, place: int) -> RawRow | Fault | None:
    """The row of a line, read strictly; None where it is blank."""
    content = block.lines[place].removesuffix(b"\r")
    if not content.strip():
        return None
    number = block.first + place
    text = _decoded(name, block, place, content)
    if isinstance(text, Fault):
        return text
    try:
        value = _value_of(text)
    except JsonError as error:
        seen = error.seen
        if error.rule == "SIZE-001" and text.lstrip().startswith("[{"):
            seen += f"; the line begins as a JSON array: {_TO_LINES}"
        return Fault(error.rule, name, number, error.field, seen)
    if not isinstance(value, dict):
        seen = f"{type_in_words(value)}, expected one JSON object"
        if isinstance(value, list) and isinstance(next(iter(value), None), dict):
            seen += f": {_TO_LINES}"
        return Fault("SCH-004", name, number, "", seen)
    return RawRow(name, number, value)


def _value_of(text: str) -> object:
    """The value, read strictly unless it is a list, of which nothing but that is told."""
    value = quick_value(text) if text.lstrip().startswith("[") else None
    return value if isinstance(value, list) else parse_json(text)


def _decoded(name: str, block: Lines, place: int, content: bytes) -> str | Fault:
    """The text of the line, or what keeps it from being UTF-8."""
    number = block.first + place
    if content.startswith(BYTE_ORDER_MARK):
        return Fault("ENC-002", name, number, "", "a byte-order mark (EF BB BF)")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        guess = guess_encoding(content, error.start)
        seen = (
            f"byte 0x{content[error.start]:02x} at offset {error.start} of the line and "
            f"{block.offset_of(place) + error.start} of the file; it looks like {guess.name}, "
            f"expected UTF-8: {guess.mend}"
        )
        field = _field_at_end(content[: error.start].decode("utf-8"))
        return Fault("ENC-001", name, number, field, seen)


def _field_at_end(beginning: str) -> str:
    """The field of a JSON line in which its beginning ends."""
    try:
        parse_json(beginning)
    except JsonError as error:
        return error.field
    return ""


def _oversized(name: str, block: Lines) -> Fault:
    seen = f"over {MAX_ROW_BYTES:,} bytes on one line"
    if block.lines[0].lstrip().startswith(b"["):
        seen += f"; the line begins as a JSON array: {_TO_LINES}"
    returns = block.lines[0].count(b"\r")
    if returns:
        seen += (
            f", with {returns:,} carriage returns (CR) in its beginning: lines end in CR alone; "
            "convert them, for example `tr '\\r' '\\n' < FILE > NEW`"
        )
    return Fault("SIZE-001", name, block.first, "", seen)
