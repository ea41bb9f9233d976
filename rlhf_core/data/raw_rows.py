"""A row as it came, before anything is known of what it means."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from rlhf_core.data.shown_text import escaped, shown_key


class RawRow(NamedTuple):
    """A JSON object, Parquet row or line of text as it came, and where it stood."""

    file: str
    line: int
    fields: Mapping[str, object]


def characters_of(value: object) -> int:
    """How many characters the texts in a value have."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(len(str(key)) + characters_of(item) for key, item in value.items())
    return sum(map(characters_of, value)) + len(value) if isinstance(value, list) else 1


def type_in_words(value: object) -> str:
    """The type of a value as a reader of the file would say it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    return "bytes" if isinstance(value, bytes) else f"a {type(value).__name__}"


def described(value: object) -> str:
    """The type of a value, and what tells it from others of its type."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and math.isfinite(value):
        return f"the number {value:.6g}"
    if isinstance(value, int) and abs(value) < 10**15:
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {escaped(value)}"
    if isinstance(value, list):
        return f"a list of {len(value):,}"
    if isinstance(value, dict):
        keys = ", ".join(repr(shown_key(str(key))) for key in list(value)[:4])
        return f"an object with the keys {keys}" if value else "an object without keys"
    return type_in_words(value)
