r"""Objects of many lines at once, where a fast parser is certain to say what the strict one would.

orjson keeps the grammar of RFC 8259, and refuses overflowing numbers, lone surrogates and bytes
that are no UTF-8. Three things it does otherwise than `strict_json`: of equal keys the last wins,
integers beyond 64 bits become floats, and values may be nested 1024 deep. The last two are seen in
what it returns. The first is seen by counting: in valid JSON without white space before a colon,
each key ends in `":`, and inside a text the same two bytes read `\":`. So as many `":` without
a backslash before them as there are keys in the result means that no key was lost.
"""

import json
import re
from collections.abc import Sequence

import numpy as np
import orjson

from rlhf_core.data.strict_json import MAX_CONTAINERS, MAX_DEPTH

_SPACED_COLON = re.compile(rb'"[ \t\r]+:')

_COLON, _QUOTE, _BACKSLASH = b':"\\'
_SPACES = np.frombuffer(b" \t\r", dtype=np.uint8)

_EXACT = 2.0**63
"""From here on a float may have been written as an integer."""


class _UncertainError(Exception):
    """The strict parser might say something else."""


def certain_objects(lines: Sequence[bytes]) -> list[dict[str, object] | None]:
    """For each line its object; None where the line has to be read strictly."""
    objects: list[dict[str, object] | None] = []
    counts: list[int] = []
    others: list[bytes] = []
    for line in lines:
        try:
            if len(line) > MAX_CONTAINERS and _may_be_many(line):
                raise _UncertainError
            value = orjson.loads(line)
            if type(value) is not dict:
                raise _UncertainError
            keys = len(value)
            for item in value.values():
                if type(item) is not str:
                    keys += _keys_within(item, 2)
        except (orjson.JSONDecodeError, _UncertainError):
            objects.append(None)
            counts.append(0)
            others.append(line)
        else:
            objects.append(value)
            counts.append(keys)
    written = _keys_in_block(b"\n".join([b"", b"", *lines]))
    if written >= 0 and sum(counts) == written - sum(map(_keys_written, others)):
        if others:
            return _others_exactly(lines, objects)
        return objects
    for place, line in enumerate(lines):
        if _keys_written(line) != counts[place]:
            objects[place] = None
    return _others_exactly(lines, objects)


def quick_value(text: str) -> object:
    """A value of the type that the text has, or None where it is none or only `null`."""
    line = text.encode("utf-8", "surrogatepass")
    try:
        return None if _may_be_many(line) else orjson.loads(line)
    except orjson.JSONDecodeError:
        return None


def _others_exactly(
    lines: Sequence[bytes], objects: list[dict[str, object] | None]
) -> list[dict[str, object] | None]:
    return [
        _exact_object(line) if value is None else value
        for line, value in zip(lines, objects, strict=True)
    ]


def _may_be_many(line: bytes) -> bool:
    """Whether the line may hold more lists and objects than one row can have."""
    return line.count(b"[") + line.count(b"{") > MAX_CONTAINERS


def _keys_in_block(block: bytes) -> int:
    """What `_keys_written` says, several times as fast for many lines; they begin two bytes in."""
    codes = np.frombuffer(block, dtype=np.uint8)
    colons = np.flatnonzero(codes == _COLON)
    before = codes[colons - 1]
    if np.isin(before, _SPACES).any():
        return _keys_written(block)
    closed = before == _QUOTE
    slashes = np.flatnonzero(codes == _BACKSLASH)
    if not len(slashes):
        return int(np.count_nonzero(closed))
    pairs = slashes[:-1][np.diff(slashes) == 1]
    if (codes[np.minimum(pairs + 2, len(codes) - 1)] == _QUOTE).any():
        return -1
    escaped = codes[colons[closed] - 2] == _BACKSLASH
    return int(np.count_nonzero(closed) - np.count_nonzero(escaped))


def _keys_written(text: bytes) -> int:
    """How many keys valid JSON lines have; -1 where counting cannot tell."""
    if b'\\\\"' in text or _SPACED_COLON.search(text):
        return -1
    return text.count(b'":') - text.count(b'\\":')


def _keys_within(value: object, depth: int) -> int:
    """How many keys stand in a value, which is `depth` deep itself."""
    kind = type(value)
    if kind is dict or kind is list:
        if depth > MAX_DEPTH:
            raise _UncertainError
        keys = 0
        items: object = value
        if isinstance(value, dict):
            keys, items = len(value), value.values()
        for item in items:  # type: ignore[attr-defined]
            if type(item) is not str and type(item) is not int:
                keys += _keys_within(item, depth + 1)
        return keys
    if kind is float and not -_EXACT < value < _EXACT:  # type: ignore[operator]
        raise _UncertainError
    return 0


def _exact_object(line: bytes) -> dict[str, object] | None:
    """The object of a line that orjson takes, by the standard library, which sees each key."""
    try:
        if _may_be_many(line) or type(orjson.loads(line)) is not dict:
            return None
        value = json.loads(line.decode(), object_pairs_hook=_distinct)
        _keys_within(value, 1)
    except (ValueError, RecursionError, _UncertainError):
        return None
    found: dict[str, object] = value
    return found


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _UncertainError
    return found
