"""The forms in which rows come, brought to four kinds: demonstration, preference, prompt, text.

Responses lose their leading white space and prompts their trailing spaces (detail S2): the encoder
puts `model.response_prefix` between them.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rlhf_core.data.dialogues import render_messages, split_opening, split_transcripts
from rlhf_core.data.rules import Fault, escaped
from rlhf_core.data.sources import RawRow, type_in_words
from rlhf_core.data.unusable import UnusableError
from rlhf_core.errors import DataError

Form = Literal[
    "prompt_response",
    "pairs",
    "rankings",
    "messages",
    "transcripts",
    "text",
    "whole_text",
    "prompts",
]
"""`text` is cut into an opening and the rest of it; `whole_text`, of the text table, is not."""

_COLUMNS: Mapping[Form, tuple[str, ...]] = {
    "rankings": ("prompt", "responses", "ranks"),
    "pairs": ("prompt", "chosen", "rejected"),
    "transcripts": ("chosen", "rejected"),
    "prompt_response": ("prompt", "response"),
    "messages": ("messages",),
    "text": ("text",),
    "prompts": ("prompt",),
}
"""The columns of each form, the most telling form first."""

PREFERENCE_FORMS: tuple[Form, ...] = ("rankings", "pairs", "transcripts")


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt with no, one or several responses, wherever it came from.

    A plain text of the text table stands in `prompt`, whole, and is its own key.

    `ranks` has one whole number per response, 1 for the best; it is empty where the row prefers
    nothing. Rows of equal `key` stay on one side of every split.
    """

    prompt: str
    responses: tuple[str, ...]
    ranks: tuple[int, ...]
    source: str
    group: str
    key: str
    file: str
    line: int
    margin: float | None = None
    """By how much better responses should lead in score, where the row says so."""
    confidence: str = ""
    """How sure the labeler was, where the row says so, in words or as a number."""

    @property
    def best(self) -> str | None:
        """The response to imitate: the first of the best-ranked; None where there is none."""
        if not self.ranks:
            return self.responses[0] if self.responses else None
        return self.responses[self.ranks.index(min(self.ranks))]


@dataclass(frozen=True, slots=True)
class RowReader:
    """Turns raw rows of one form into rows."""

    form: Form
    columns: Mapping[str, str]
    split_by: str
    opening_sentences: int

    def read(self, raw: RawRow) -> Row | Fault:
        """The row, or the fault that keeps it from being one."""
        fields = _renamed(raw.fields, self.columns)
        try:
            prompt, responses, ranks = self._parts(fields)
            source, group = _label(fields, "source", raw.file), _label(fields, "group", "")
            margin, confidence = None, ""
            if self.form in PREFERENCE_FORMS:
                margin, confidence = _margin(fields), _confidence(fields)
            by_prompt = self.split_by == "prompt" or self.form == "whole_text"
            key = prompt if by_prompt else _label(fields, self.split_by, None)
        except UnusableError as unusable:
            return unusable.fault(raw.file, raw.line)
        return Row(
            prompt=prompt.rstrip(" \t"),
            responses=tuple(response.lstrip() for response in responses),
            ranks=tuple(ranks),
            source=source,
            group=group,
            key=comparable_key(key),
            file=raw.file,
            line=raw.line,
            margin=margin,
            confidence=confidence,
        )

    def _parts(self, fields: Mapping[str, object]) -> "_Parts":
        if self.form != "text":
            return _READERS[self.form](fields)
        opening, rest = split_opening(_text(fields, "text"), self.opening_sentences)
        return _Parts(opening, [rest], [])


def comparable_key(text: str) -> str:
    """The text without differences of case and white space: rows of equal keys stay together."""
    return " ".join(text.split()).casefold()


def form_of(first: RawRow, columns: Mapping[str, str], table: str) -> Form:
    """The form that the columns of a file's first row tell; `table` decides which are of use."""
    found = set(_renamed(first.fields, columns))
    for form, needed in _COLUMNS.items():
        if table == "prompts" or form != "prompts":
            if table == "preferences" and form not in PREFERENCE_FORMS:
                continue
            if found.issuperset(needed):
                return form
    usable = PREFERENCE_FORMS if table == "preferences" else tuple(_COLUMNS)
    forms = "; ".join(f"{form}: {', '.join(_COLUMNS[form])}" for form in usable)
    raise DataError(
        f"{first.file}:{first.line}: the columns {', '.join(sorted(first.fields)) or '(none)'} "
        f"fit none of the forms that {table} can have ({forms}). Say which column is which, for "
        f"example `--set data.{table}.columns={{prompt: YOUR_COLUMN}}`."
    )


class _Parts(NamedTuple):
    prompt: str
    responses: list[str]
    ranks: list[int]


def _pair(fields: Mapping[str, object]) -> _Parts:
    prompt, chosen, rejected = (_text(fields, name) for name in ("prompt", "chosen", "rejected"))
    return _Parts(prompt, [chosen, rejected], [1, 2])


def _ranking(fields: Mapping[str, object]) -> _Parts:
    if "responses" not in fields and "chosen" in fields:  # comparisons, joined by group later on
        return _pair(fields)
    responses, ranks = _list(fields, "responses"), _list(fields, "ranks")
    for place, response in enumerate(responses):
        if not isinstance(response, str):
            seen = f"{type_in_words(response)} at place {place}, expected a text"
            raise UnusableError("SCH-004", "responses", seen)
    whole = [rank for rank in ranks if type(rank) is int and 1 <= rank < 2**31]
    if len(whole) < len(ranks) or len(ranks) != len(responses) or len(ranks) < 2:
        seen = f"{len(responses)} responses and ranks {escaped(str(ranks))}"
        raise UnusableError("PREF-001", "ranks", seen)
    return _Parts(_text(fields, "prompt"), [str(response) for response in responses], whole)


def _transcripts(fields: Mapping[str, object]) -> _Parts:
    whole = [
        render_messages(_list(fields, name), name)
        if isinstance(_present(fields, name), list)
        else _text(fields, name)
        for name in ("chosen", "rejected")
    ]
    shared = split_transcripts(*whole)
    return _Parts(shared.prompt, [shared.chosen, shared.rejected], [1, 2])


def _demonstration(fields: Mapping[str, object]) -> _Parts:
    return _Parts(_text(fields, "prompt"), [_text(fields, "response")], [])


def _messages(fields: Mapping[str, object]) -> _Parts:
    transcript = render_messages(_list(fields, "messages"), "messages")
    shared = split_transcripts(transcript, transcript)
    return _Parts(shared.prompt, [shared.chosen], [])


def _prompt(fields: Mapping[str, object]) -> _Parts:
    return _Parts(_text(fields, "prompt"), [], [])


def _whole_text(fields: Mapping[str, object]) -> _Parts:
    return _Parts(_text(fields, "text"), [], [])


_READERS: Mapping[Form, Callable[[Mapping[str, object]], _Parts]] = {
    "prompt_response": _demonstration,
    "pairs": _pair,
    "rankings": _ranking,
    "messages": _messages,
    "transcripts": _transcripts,
    "prompts": _prompt,
    "whole_text": _whole_text,
}


def _renamed(fields: Mapping[str, object], columns: Mapping[str, str]) -> Mapping[str, object]:
    """The fields under our names; a file's column that is renamed loses its own."""
    if not columns:
        return fields
    theirs = set(columns.values())
    kept = {name: value for name, value in fields.items() if name not in theirs}
    return kept | {ours: fields[name] for ours, name in columns.items() if name in fields}


def _present(fields: Mapping[str, object], name: str) -> object:
    if name not in fields:
        near = difflib.get_close_matches(name, fields, n=1)
        hint = f"; did {near[0]!r} mean it?" if near else ""
        seen = f"the row has {', '.join(map(escaped, sorted(fields))) or 'no keys'}{hint}"
        raise UnusableError("SCH-002", name, seen)
    if fields[name] is None:
        raise UnusableError("SCH-001", name, "null")
    return fields[name]


def _text(fields: Mapping[str, object], name: str) -> str:
    value = _present(fields, name)
    if not isinstance(value, str):
        raise UnusableError("SCH-004", name, f"{type_in_words(value)}, expected a text")
    return value


def _list(fields: Mapping[str, object], name: str) -> list[object]:
    value = _present(fields, name)
    if not isinstance(value, list):
        raise UnusableError("SCH-004", name, f"{type_in_words(value)}, expected a list")
    return value


def _margin(fields: Mapping[str, object]) -> float | None:
    """A number of at least 0, or None where the row has none."""
    value = fields.get("margin")
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        seen = f"{type_in_words(value)}, expected a number"
        raise UnusableError("SCH-004", "margin", seen)
    if not 0 <= value < math.inf:
        raise UnusableError("SCH-004", "margin", f"{value}, expected a number of at least 0")
    return float(value)


def _confidence(fields: Mapping[str, object]) -> str:
    """How sure a labeler was, as it stands there; empty where the row does not say."""
    value = fields.get("confidence")
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else _label(fields, "confidence", "")


def _label(fields: Mapping[str, object], name: str, default: str | None) -> str:
    """A column that names a group or a source: text or a whole number."""
    if name not in fields and default is not None:
        return default
    value = _present(fields, name)
    if not isinstance(value, str | int) or isinstance(value, bool):
        seen = f"{type_in_words(value)}, expected a text or a whole number"
        raise UnusableError("SCH-004", name, seen)
    return str(value)
