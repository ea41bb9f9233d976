"""The page of the data stage: what the rows are like, which rules they break, and where."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from rlhf_core.data.faults import SHOWN_PER_RULE, Fault, field_of
from rlhf_core.data.page_drawings import length_drawings
from rlhf_core.data.page_facts import facts_table, other_facts, other_facts_of
from rlhf_core.data.page_style import STYLE
from rlhf_core.data.page_tokens import token_section
from rlhf_core.data.rules import RULES
from rlhf_core.data.shown_text import visible
from rlhf_core.data.totals import ACTION_WORDS, first_faults, joined_comparisons
from rlhf_core.pages.html import document, table, text, tile
from rlhf_core.pages.stylesheet import STYLESHEET
from rlhf_core.pages.wording import percent

PAGE = "report.html"

SHOWN_FAULTS = 500
"""Rows on the page at most, of all rules together; report.json has all of them."""

Report = Mapping[str, Any]


def data_page(report: Report, faults: Iterable[Mapping[str, Any]]) -> str:
    """The whole page of a data report; `faults` are its rows, of which the first are shown."""
    sections = [
        _headline(report),
        _tables(report),
        _rules(report),
        *(_distributions(name, facts) for name, facts in report["tables"].items()),
        _splits(report),
        other_facts(report),
        _faults(report, faults),
    ]
    return document("Data", sections, STYLESHEET + STYLE)


def _headline(report: Report) -> str:
    tables = report["tables"].values()
    totals = {name: sum(facts[name] for facts in tables) for name in ("rows", "set_aside")}
    usable = sum(facts["usable"] for facts in tables)
    tiles = [
        tile(f"{totals['rows']:,}", "rows read"),
        tile(f"{usable:,}", "usable"),
        tile(f"{totals['set_aside']:,}", "set aside"),
        tile(f"{len(report['rules'])}", f"of {len(RULES)} rules broken"),
    ]
    verdict = (
        '<p><span class="yes">Usable.</span> Every row that is trained on has passed all rules '
        "that refuse.</p>"
        if report["usable"]
        else '<p class="note"><span class="no">Refused.</span> Nothing was trained.</p>'
    )
    return f'<h1>Data</h1>{verdict}<div class="tiles">{"".join(tiles)}</div>'


def _tables(report: Report) -> str:
    rows = [
        [
            text(name),
            f"{facts['rows']:,}",
            f"{facts['usable']:,}",
            f"{facts['set_aside']:,}",
            percent(facts["set_aside"] / facts["rows"] if facts["rows"] else 0.0),
            f"{facts['prompts_cut']:,}",
        ]
        for name, facts in report["tables"].items()
    ]
    count = joined_comparisons(report)
    joined = f" {count:,} comparisons were joined to the rankings of their group." if count else ""
    return (
        "<h2>Tables</h2>"
        + table(["", "rows read", "usable", "set aside", "share", "prompts cut"], rows)
        + f'<p class="soft">Budgets of length are counted in {text(report["lengths_counted_in"])}.'
        f"{joined}</p>"
    )


def _rules(report: Report) -> str:
    if not report["rules"]:
        return "<h2>Rules</h2><p>No row breaks any rule.</p>"
    names = list(report["tables"])
    rows = []
    for rule_id, facts in report["rules"].items():
        counts = [report["tables"][name]["faults_by_rule"].get(rule_id, 0) for name in names]
        changed = "" if facts["action"] == facts["default"] else f"<small>{_default(facts)}</small>"
        rows.append(
            [
                f'<a href="#{rule_id}">{rule_id}</a> {text(facts["title"])}',
                f"{_action(facts['action'])}{changed}",
                f"{facts['faults']:,}",
                *(f"{count:,}" if count else "" for count in counts),
            ]
        )
    return "<h2>Rules that rows break</h2>" + table(
        ["rule", "what is done", "in all", *map(text, names)], rows
    )


def _default(facts: Mapping[str, Any]) -> str:
    return f"changed by the recipe; default: {ACTION_WORDS[facts['default']]}"


def _action(action: str) -> str:
    kind = {"refuse": "no", "set_aside": "unknown", "warn": "soft"}[action]
    return f'<span class="{kind}">{ACTION_WORDS[action]}</span>'


def _distributions(name: str, facts: Mapping[str, Any]) -> str:
    found = facts.get("distributions", {})
    if not found:
        return ""
    parts = [f"<h2>{text(name.capitalize())}: what the rows are like</h2>"]
    parts.append(length_drawings(found))
    parts.append('<div class="columns">')
    by_file = found.get("rows_by_file", {})
    for title, counts in (
        ("source", found.get("rows_by_source", {})),
        ("file", by_file),
        ("number of responses", found.get("rows_by_responses", {})),
    ):
        if len(counts) > 1 or (title == "source" and counts != by_file):
            parts.append(_bars(f"Rows by {title}", counts))
    parts.append("</div>")
    parts += [facts_table(found), token_section(facts), other_facts_of(facts)]
    return "".join(parts)


def _bars(title: str, counts: Mapping[str, int]) -> str:
    """Counts under their names, each with a bar as long as its share of the largest."""
    most = max(counts.values(), default=0) or 1
    rows = "".join(
        f'<li><span class="name">{text(visible(name)) or "(none)"}</span>'
        f'<span class="bar"><i style="width:{100 * count / most:.1f}%"></i></span>'
        f"<span>{count:,}</span></li>"
        for name, count in counts.items()
    )
    return f'<section class="bars"><h3>{text(title)}</h3><ul>{rows}</ul></section>'


def _splits(report: Report) -> str:
    sides = report.get("sides")
    if sides is None:
        return ""
    rows = [
        [text(name), text(split), f"{facts['rows']:,}", f"{facts['keys']:,}"]
        for name, splits in sides.items()
        if name != "removed"
        for split, facts in splits.items()
        if facts["rows"]
    ]
    removed = {name: count for name, count in sides["removed"].items() if count}
    note = ", ".join(f"{count:,} of {text(name)}" for name, count in removed.items())
    apart = f"<p>On no side, since held out of that table: {note}.</p>" if note else ""
    return (
        f"<h2>Splits</h2><p>Rows of equal <code>{text(report['split_by'])}</code> stand on one "
        "side; the side follows from a hash, so it stays when rows are added.</p>"
        + table(["table", "side", "rows", "distinct keys"], rows)
        + apart
    )


def _faults(report: Report, faults: Iterable[Mapping[str, Any]]) -> str:
    shown = _first_of_each_rule(faults)
    if not shown:
        return ""
    total = sum(facts["faults"] for facts in report["rules"].values())
    count = sum(map(len, shown.values()))
    note = (
        ""
        if count == total
        else f" Shown are the first {SHOWN_PER_RULE} of each rule, {count:,} of {total:,} in all; "
        "<code>report.json</code> lists every one."
    )
    parts = [
        "<h2>The rows at fault</h2>",
        f'<p class="soft">Characters that cannot be seen are escaped.{note}</p>',
    ]
    for rule_id, rows in shown.items():
        rule, facts = RULES[rule_id], report["rules"][rule_id]
        parts.append(
            f'<article id="{rule_id}"><header><strong>{rule_id}</strong> {text(rule.title)} · '
            f"{_action(facts['action'])} · {facts['faults']:,} "
            f"{'place' if facts['faults'] == 1 else 'places'}"
            f"<dl><dt>why</dt><dd>{text(rule.why)}</dd>"
            f"<dt>mend</dt><dd>{text(rule.mend)}</dd></dl></header>"
            + table(["place", "field", "seen"], [_fault(fault) for fault in rows])
            + "</article>"
        )
    return "".join(parts)


def _first_of_each_rule(faults: Iterable[Mapping[str, Any]]) -> Mapping[str, Sequence[Fault]]:
    """The first faults of each rule, in the order of the rules' ids."""
    shown = sorted(first_faults(faults)[:SHOWN_FAULTS], key=lambda fault: fault.rule)
    return {rule: list(some) for rule, some in groupby(shown, key=lambda fault: fault.rule)}


def _fault(fault: Fault) -> list[str]:
    place = f"{visible(fault.file)}:{fault.line}"
    return [
        f"<code>{text(place)}</code>",
        f'<code class="field">{text(field_of(fault))}</code>',
        f'<span class="seen">{text(visible(fault.seen))}</span>',
    ]
