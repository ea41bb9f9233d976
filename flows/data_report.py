"""What `rlhf check` shows: rows by table and side, totals by rule, and the rows at fault."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows import console

if TYPE_CHECKING:
    from tasks.check import Checked


def show(checked: "Checked") -> None:
    """Print the report; the rows that a refusal names are left to the refusal."""
    from rlhf_core.data.faults import render_faults
    from rlhf_core.data.token_notes import token_notes

    _show_tables(checked.facts)
    for note in token_notes(checked.facts):
        click.echo(note)
    for place in checked.places if checked.refusal is None else ():
        click.echo(place)
    rules = checked.facts["rules"]
    if rules:
        click.echo()
        _show_rules(checked.facts)
    refusal = str(checked.refusal or "")
    faults = [fault for fault in checked.faults if f"  rule {fault.rule} " not in refusal]
    if faults:
        counts = {rule: facts["faults"] for rule, facts in rules.items()}
        click.echo(f"\n{render_faults(faults, counts)}")
    click.echo(f"\n{_last_line(checked)}")


def show_json(document: Mapping[str, Any], report: Path) -> None:
    """Print one JSON document: these values, and the whole report, which is not held in memory."""
    opening = json.dumps(document, indent=1, ensure_ascii=False).removesuffix("\n}")
    click.echo(f'{opening},\n "report": ', nl=False)
    with report.open(encoding="utf-8") as lines:
        for line in lines:
            click.echo(line, nl=False)
    click.echo("}")


def _show_tables(report: Mapping[str, Any]) -> None:
    sides = report.get("sides", {})
    rows = []
    for name, facts in report["tables"].items():
        cut = f"{facts['prompts_cut']:,} prompts cut" if facts["prompts_cut"] else ""
        on_sides = [f"{side} {part['rows']:,}" for side, part in sides.get(name, {}).items()]
        counts = [f"{facts[count]:,}" for count in ("rows", "usable", "set_aside")]
        rows.append([name, *counts, ", ".join([*on_sides, cut] if cut else on_sides)])
    for name, parts in sides.items():  # tables that were made of others
        made = [f"{side} {part['rows']:,}" for side, part in parts.items() if name != "removed"]
        if name not in report["tables"] and name != "removed" and any(_rows_of(parts)):
            rows.append([name, "", "", "", ", ".join(made)])
    console.show_table(["table", "rows read", "usable", "set aside", "sides"], rows)


def _rows_of(parts: Mapping[str, Any]) -> list[int]:
    return [part["rows"] for part in parts.values()]


def _show_rules(report: Mapping[str, Any]) -> None:
    from rlhf_core.data.totals import ACTION_WORDS

    tables = list(report["tables"])
    rows = []
    for rule, facts in report["rules"].items():
        changed = "" if facts["action"] == facts["default"] else " (changed)"
        counts = [report["tables"][name]["faults_by_rule"].get(rule, 0) for name in tables]
        rows.append(
            [
                f"{rule} {facts['title']}",
                ACTION_WORDS[facts["action"]] + changed,
                f"{facts['faults']:,}",
                *(f"{count:,}" if count else "" for count in counts if len(tables) > 1),
            ]
        )
    heads = ["rule", "what is done", "faults", *(tables if len(tables) > 1 else ())]
    console.show_table(heads, rows)


def _last_line(checked: "Checked") -> str:
    from rlhf_core.data.totals import joined_comparisons

    tables = checked.facts["tables"].values()
    rows, usable = (sum(facts[name] for facts in tables) for name in ("rows", "usable"))
    broken = len(checked.facts["rules"])
    rules = "no rule is broken"
    if broken:
        faults = sum(facts["faults"] for facts in checked.facts["rules"].values())
        rules = (
            f"{faults:,} {'fault' if faults == 1 else 'faults'} by {broken} "
            f"{'rule' if broken == 1 else 'rules'}"
        )
    verdict = "can be used" if checked.refusal is None else "could be used"
    joined = joined_comparisons(checked.facts)
    told = f", {joined:,} of them joined to rankings" if joined else ""
    line = f"{usable + joined:,} of {rows:,} rows {verdict}{told}; {rules}."
    if checked.folder is not None:
        line += f"\nPage: {checked.folder / 'report.html'}"
    elif broken:
        line += "\nTo keep all of this as a page: --report FOLDER"
    return line
