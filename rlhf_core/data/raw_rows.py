"""A row as it came, before anything is known of what it means."""

import math
from collections.abc import Mapping
from typing import NamedTuple


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
