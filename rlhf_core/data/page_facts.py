"""Facts of the data report as tables, whoever found them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf_core.data.page_tokens import TOKEN_FACTS
from rlhf_core.data.shown_text import visible
from rlhf_core.pages.html import table, text
from rlhf_core.pages.wording import percent

_SHOWN_ELSEWHERE = frozenset(
    {"distributions", "faults", "faults_by_rule", "lengths_counted_in", "prompts_cut", "rows"}
    | {"rules", "set_aside", "sides", "split_by", "tables", "usable"}
)
_DRAWN = frozenset({"histogram", "rows_by_file", "rows_by_responses", "rows_by_source"})
_SHOWN_ITEMS = 60


def facts_table(found: Mapping[str, Any]) -> str:
    """Lengths and repetitions of a table in figures, and what else its accounts say."""
    lengths = {name: facts for name, facts in found.items() if _has_quantiles(facts)}
    parts = []
    if lengths:
        heads = ["mean", "least", "median", "p95", "most"]
        rows = [
            [_words(name.removesuffix("_characters")), *(_shown(facts[head]) for head in heads)]
            for name, facts in lengths.items()
        ]
        parts.append(table(["characters", *heads], rows))
    repeated = found.get("repeated", {})
    rows = [_repetition(name, facts) for name, facts in repeated.items() if name != "agreement"]
    if rows:
        heads = ["", "distinct", "times each", "more than once", "most often"]
        parts.append(table(heads, rows))
    parts += [f"<p>{sentence}</p>" for sentence in _sentences(found)]
    known = {*lengths, "repeated", "rows_with_ties", "chosen_minus_rejected_characters"}
    parts.append(_section({name: facts for name, facts in found.items() if name not in known}))
    return "".join(parts)


def _has_quantiles(facts: object) -> bool:
    return isinstance(facts, Mapping) and "median" in facts


def _repetition(name: str, facts: Mapping[str, Any]) -> list[str]:
    each = next(value for key, value in facts.items() if key.endswith("_each"))
    distinct = facts.get("distinct")
    followed = f"<small>{facts['followed']:,} followed</small>"
    about = distinct is None or distinct != facts["followed"]
    return [
        text(_words(name)) + (followed if about else ""),
        _shown(distinct),
        _shown(each),
        percent(facts["share_repeated"]),
        _shown(facts["most"]),
    ]


def _sentences(found: Mapping[str, Any]) -> Iterator[str]:
    leads = found.get("chosen_minus_rejected_characters", {})
    if leads.get("count"):
        yield (
            f"The best response is longer than the worst in {percent(leads['share_longer'])} of "
            f"{leads['count']:,} rows and as long in {percent(leads['share_equal'])}."
        )
    agreement = found.get("repeated", {}).get("agreement")
    if agreement is not None:
        yield f"Two judgements of one comparison say the same in {percent(agreement)} of cases."
    if found.get("rows_with_ties"):
        yield f"{found['rows_with_ties']:,} rows hold responses of equal rank."


def other_facts_of(facts: Mapping[str, Any]) -> str:
    """What was found out of one table and has no place of its own."""
    return "".join(
        f"<h3>{_title(name)}</h3>{_section({name: fact})}"
        for name, fact in facts.items()
        if name not in _SHOWN_ELSEWHERE | TOKEN_FACTS
    )


def other_facts(report: Mapping[str, Any]) -> str:
    """What was found out of all tables and has no place of its own, the metrics folded."""
    found = {name: facts for name, facts in report.items() if name not in _SHOWN_ELSEWHERE}
    metrics = found.pop("metrics", None)
    parts = [f"<h2>{_title(name)}</h2>{_section({name: facts})}" for name, facts in found.items()]
    if metrics:
        parts.append(
            f"<h2>Metrics</h2><details><summary>{len(metrics)} metrics of the stage</summary>"
            f"{_section({'metrics': metrics})}</details>"
        )
    return "".join(parts)


def _section(found: Mapping[str, Any]) -> str:
    """A two-column table of all plain values below, under the names that lead to them."""
    rows = []
    for path, value in _leaves(found, ()):
        name = " · ".join(_words(piece) for piece in path[1:] or path)
        rows.append([text(name), _shown(value)])
    if not rows:
        return ""
    more = len(rows) - _SHOWN_ITEMS
    note = f'<p class="soft">and {more:,} more in <code>report.json</code></p>' if more > 0 else ""
    return table(["", ""], rows[:_SHOWN_ITEMS]) + note


def _leaves(value: object, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], object]]:
    if isinstance(value, Mapping):
        inner = [(str(name), part) for name, part in value.items() if name not in _DRAWN]
    elif isinstance(value, Sequence) and not isinstance(value, str):
        inner = [(str(place), part) for place, part in enumerate(value, start=1)]
        if all(isinstance(part, int | float | str) for _, part in inner):
            return [(path, ", ".join(map(str, value)))]
    else:
        return [(path, value)]
    return [leaf for name, part in inner for leaf in _leaves(part, (*path, name))]


def _shown(value: object) -> str:
    """A plain value for a reader."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if isinstance(value, float):
        return f"{value:,.4g}".replace("-", "−")
    return text(visible(str(value)))


def _words(name: str) -> str:
    return visible(name.replace("_", " "))


def _title(name: str) -> str:
    return text(_words(name).capitalize())
