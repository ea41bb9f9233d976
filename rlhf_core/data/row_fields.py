"""Fields of a raw row as the types that are needed; what is missing or of another type is named."""

from collections.abc import Mapping

from rlhf_core.data.near_names import nearest_key
from rlhf_core.data.raw_rows import described
from rlhf_core.data.shown_text import shown_key
from rlhf_core.data.unusable import UnusableError

Fields = Mapping[str, object]

_NAMED_KEYS = 12


def present(fields: Fields, name: str) -> object:
    """The value under the name, which is not null."""
    if name not in fields:
        near = nearest_key(name, fields)
        hint = f"; did {near!r} mean it?" if near else ""
        raise UnusableError("SCH-002", name, f"the row has {keys_in_words(fields)}{hint}")
    if fields[name] is None:
        raise UnusableError("SCH-001", name, "null")
    return fields[name]


def keys_in_words(fields: Fields) -> str:
    """The keys of a row, the first of them where they are many."""
    names = [repr(shown_key(key)) for key in sorted(fields)]
    more = f" and {len(names) - _NAMED_KEYS} more" if len(names) > _NAMED_KEYS else ""
    return (", ".join(names[:_NAMED_KEYS]) + more) or "no keys"


def text_of(fields: Fields, name: str) -> str:
    """The text under the name."""
    value = present(fields, name)
    if not isinstance(value, str):
        raise UnusableError("SCH-004", name, f"{described(value)}, expected a text")
    return value


def list_of(fields: Fields, name: str) -> list[object]:
    """The list under the name."""
    value = present(fields, name)
    if not isinstance(value, list):
        raise UnusableError("SCH-004", name, f"{described(value)}, expected a list")
    return value


def label_of(fields: Fields, name: str) -> str:
    """A column that names a group or a source: text or a whole number."""
    value = present(fields, name)
    if not isinstance(value, str | int) or isinstance(value, bool):
        seen = f"{described(value)}, expected a text or a whole number"
        raise UnusableError("SCH-004", name, seen)
    label = str(value)
    if not label.isascii():
        try:
            label.encode()
        except UnicodeEncodeError as error:
            seen = f"U+{ord(label[error.start]):04X} at character {error.start + 1}"
            raise UnusableError("TXT-002", name, seen) from None
    return label
