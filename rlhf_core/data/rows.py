"""Raw rows brought to four kinds: demonstration, preference, prompt, text.

Responses lose their leading white space and prompts their trailing spaces (detail S2): the encoder
puts `model.response_prefix` between them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rlhf_core.data.faults import Fault, render_faults
from rlhf_core.data.near_names import nearest_key, nearly_known
from rlhf_core.data.raw_rows import RawRow
from rlhf_core.data.row_fields import Fields, keys_in_words, label_of
from rlhf_core.data.row_forms import COLUMNS_OF_FORM, PREFERENCE_FORMS, Form, Parts, parts_reader
from rlhf_core.data.scores import SCORED, check_score, confidence_of, margin_of, scored_against
from rlhf_core.data.shown_text import shown_key
from rlhf_core.data.unusable import UnusableError
from rlhf_core.errors import DataError

__all__ = [
    "PREFERENCE_FORMS",
    "Form",
    "Row",
    "RowReader",
    "comparable_key",
    "form_of",
    "form_of_most",
]


_BESIDE = frozenset({"source", "group", "margin", "confidence", "score", *SCORED})
"""What a row may say beside its texts."""

_MOST_KEYS = 500
"""Of a row that is looked at for near names, and sets of keys that are remembered."""


@dataclass(slots=True)
class Row:
    """One prompt with no, one or several responses, wherever it came from.

    A plain text of the text table stands in `prompt`, whole, and is its own key.

    `ranks` has one whole number per response, 1 for the best; it is empty where the row prefers
    nothing. Rows of equal `key` stay on one side of every split. Nobody changes a row once it is
    made; it is not frozen, since that makes it five times as dear to make.
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
    _parts: Callable[[Fields], Parts] = field(init=False, repr=False, compare=False)
    _odd_keys: dict[tuple[str, ...], "_OddKeys"] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "_parts", parts_reader(self.form, self.opening_sentences))

    def read(self, raw: RawRow) -> Row | Fault:
        """The row, or the fault that keeps it from being one."""
        file, line, fields = raw
        if self.columns:
            fields = _renamed(fields, self.columns)
        try:
            prompt, responses, ranks = self._parts(fields)
            source, group, margin, confidence = file, "", None, ""
            if not _BESIDE.isdisjoint(fields):
                source = label_of(fields, "source") if "source" in fields else file
                group = label_of(fields, "group") if "group" in fields else ""
                if ranks:
                    margin, confidence = margin_of(fields), confidence_of(fields)
                if "score" in fields:
                    check_score(fields)
            by_prompt = self.split_by == "prompt" or self.form == "whole_text"
            key = prompt if by_prompt else label_of(fields, self.split_by)
        except UnusableError as unusable:
            return unusable.fault(file, line)
        return Row(
            prompt.rstrip(" \t"),
            tuple(map(str.lstrip, responses)),
            ranks,
            source,
            group,
            comparable_key(key),
            file,
            line,
            margin,
            confidence,
        )

    def remarks(self, raw: RawRow) -> list[Fault]:
        """Faults that stand beside the row and not in its place, whether or not it can be read.

        These are keys that are nearly known ones, and scores that prefer the rejected response.
        """
        if len(raw.fields) > _MOST_KEYS:  # such a row is a table of its own
            return []
        names = tuple(raw.fields)
        odd = self._odd_keys.get(names)
        if odd is None:
            odd = self._odd_keys_of(names)
            if len(self._odd_keys) < _MOST_KEYS:
                self._odd_keys[names] = odd
        if not odd.near and not odd.is_scored:
            return []
        return [*odd.near_faults(raw), *self._score_faults(raw)]

    def _odd_keys_of(self, names: tuple[str, ...]) -> "_OddKeys":
        needed = COLUMNS_OF_FORM.get(self.form, ("text",))
        known = (*needed, "source", "group")
        if self.split_by != "prompt":
            known = (*known, self.split_by)
        if self.form in PREFERENCE_FORMS:
            known = (*known, "margin", "confidence")
        known = tuple(self.columns.get(name, name) for name in known)
        missing = [name for name in known if name not in names]
        near = {key: nearly_known(key, missing) for key in names if key not in known}
        found = {key: name for key, name in near.items() if name is not None}
        scored = self.form in PREFERENCE_FORMS and not SCORED.isdisjoint(names)
        return _OddKeys(found, scored)

    def _score_faults(self, raw: RawRow) -> Iterator[Fault]:
        try:
            against = scored_against(_renamed(raw.fields, self.columns))
        except UnusableError:
            return  # `read` names it
        if against is not None:
            yield Fault("PREF-007", raw.file, raw.line, *against)


@dataclass(frozen=True, slots=True)
class _OddKeys:
    """What is to be said of all rows that have the same keys."""

    near: Mapping[str, str]
    is_scored: bool

    def near_faults(self, raw: RawRow) -> Iterator[Fault]:
        for key, name in self.near.items():
            seen = f"the key {shown_key(key)!r}, which is not known; nearest is {name!r}"
            yield Fault("SCH-003", raw.file, raw.line, shown_key(key), seen)


def comparable_key(text: str) -> str:
    """The text without differences of case and white space: rows of equal keys stay together."""
    if text.isprintable() and "  " not in text:  # so its only white space is single spaces
        return text.strip(" ").casefold()
    return " ".join(text.split()).casefold()


def form_of_most(first: Sequence[RawRow], columns: Mapping[str, str], table: str) -> Form:
    """The form that most of a file's first rows have, so that no single odd one decides it."""
    forms: Counter[Form] = Counter()
    untold: DataError | None = None
    for raw in first:
        try:
            forms[form_of(raw, columns, table)] += 1
        except DataError as error:
            untold = untold or error
    if not forms and untold is not None:
        raise untold
    return forms.most_common(1)[0][0]


def form_of(first: RawRow, columns: Mapping[str, str], table: str) -> Form:
    """The form that the columns of a row tell; `table` decides which are of use."""
    found = set(_renamed(first.fields, columns))
    for form, needed in COLUMNS_OF_FORM.items():
        if table == "prompts" or form != "prompts":
            if table == "preferences" and form not in PREFERENCE_FORMS:
                continue
            if found.issuperset(needed):
                return form
    usable = PREFERENCE_FORMS if table == "preferences" else tuple(COLUMNS_OF_FORM)
    forms = "; ".join(f"{form}: {', '.join(COLUMNS_OF_FORM[form])}" for form in usable)
    names = dict.fromkeys(name for form in usable for name in COLUMNS_OF_FORM[form])
    near = {name: nearest_key(name, found) for name in names if name not in found}
    hints = "".join(f"; did {key!r} mean {name!r}?" for name, key in near.items() if key)
    seen = (
        f"the row has {keys_in_words(first.fields)}, which fit none of the forms that {table} can "
        f"have ({forms}){hints}"
    )
    fault = Fault("SCH-002", first.file, first.line, "", seen)
    raise DataError(
        f"{render_faults([fault])}\nSay which column is which, for example "
        f"`--set data.{table}.columns={{prompt: YOUR_COLUMN}}`."
    )


def _renamed(fields: Fields, columns: Mapping[str, str]) -> Fields:
    """The fields under our names; a file's column that is renamed loses its own."""
    if not columns:
        return fields
    theirs = set(columns.values())
    kept = {name: value for name, value in fields.items() if name not in theirs}
    return kept | {ours: fields[name] for ours, name in columns.items() if name in fields}
