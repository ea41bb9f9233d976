"""Margins, confidences and scores of a preference, and whether they contradict it."""

from collections.abc import Mapping
from decimal import Decimal

from rlhf_core.data.raw_rows import described
from rlhf_core.data.row_fields import Fields, label_of
from rlhf_core.data.unusable import UnusableError

SCORE_COLUMNS: Mapping[str, str] = {
    chosen: chosen.replace("chosen", "rejected")
    for word in ("score", "reward", "rating")
    for mark in ("_", "-")
    for chosen in (f"chosen{mark}{word}", f"{word}{mark}chosen")
}
"""Columns in which data sets score the chosen response, and those of its rejected one."""

SCORED = frozenset({*SCORE_COLUMNS, *SCORE_COLUMNS.values()})

_EXACT = 2**53
"""From here on a float no longer tells one whole number from the next."""


def margin_of(fields: Fields) -> float | None:
    """By how much the chosen response leads, where the row says so, and its scores agree."""
    margin = _number(fields, "margin") if "margin" in fields else None
    for chosen, rejected in () if SCORED.isdisjoint(fields) else SCORE_COLUMNS.items():
        if chosen in fields or rejected in fields:
            lead = _lead(fields, chosen, rejected)
            if lead is not None and margin is not None and lead * margin < 0:
                seen = (
                    f"margin {margin:g}, but {chosen} {_value(fields, chosen):g} and "
                    f"{rejected} {_value(fields, rejected):g}"
                )
                raise UnusableError("PREF-006", "margin", seen)
    if margin is not None and margin < 0:
        seen = f"margin {margin:g}, which says that rejected is better; expected at least 0"
        raise UnusableError("PREF-006", "margin", seen)
    return margin


def check_score(fields: Fields) -> None:
    """Raise where the row has a `score` that is a number and not a finite one."""
    _score(fields, "score")


def scored_against(fields: Fields) -> tuple[str, str] | None:
    """Field and finding where a row without margin scores its rejected response higher."""
    if fields.get("margin") is not None:
        return None
    for chosen, rejected in SCORE_COLUMNS.items():
        if chosen in fields and rejected in fields:
            lead = _lead(fields, chosen, rejected)
            if lead is not None and lead < 0:
                better, worse = _value(fields, rejected), _value(fields, chosen)
                return rejected, f"{rejected} {better:g} is above {chosen} {worse:g}"
    return None


def confidence_of(fields: Fields) -> str:
    """How sure a labeler was, as it stands there; empty where the row does not say."""
    value = fields.get("confidence")
    if isinstance(value, float):
        _finite(value, "confidence")
        return f"{value:.3g}"
    return "" if value is None else label_of(fields, "confidence")


def _lead(fields: Fields, chosen: str, rejected: str) -> float | None:
    """How far the chosen response's score is ahead; None where one of the two is no number."""
    scores = [_score(fields, name) for name in (chosen, rejected)]
    if scores[0] is None or scores[1] is None:
        return None
    return scores[0] - scores[1]


def _score(fields: Fields, name: str) -> float | None:
    """A finite number, or None where the column has another use."""
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    return _finite(value, name)


def _value(fields: Fields, name: str) -> float:
    return _score(fields, name) or 0.0


def _number(fields: Fields, name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise UnusableError("SCH-004", name, f"{described(value)}, expected a number")
    return _finite(value, name)


def _finite(value: int | float | Decimal, name: str) -> float:
    number = float(value) if isinstance(value, Decimal) else value
    if -_EXACT <= number <= _EXACT:
        return float(number)
    shown = f"{number:.6g}" if isinstance(number, float) else f"{number:,}"
    seen = f"{shown[:40]}, expected a finite number of at most 2^53"
    raise UnusableError("NUM-001", name, seen)
