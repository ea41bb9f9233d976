"""The data stage: raw rows in; checked, split tables out."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_core.data.checking import CheckedTable, refusal, rule_actions
from rlhf_core.data.distributions import accounts_of, facts_of
from rlhf_core.data.faults import Fault
from rlhf_core.data.gate import Gate, scratch_folder
from rlhf_core.data.page import PAGE, data_page
from rlhf_core.data.report_file import REPORT, write_report
from rlhf_core.data.rules import RULES
from rlhf_core.data.schemas import TableName
from rlhf_core.data.sides import Sides, Splitter, side_facts
from rlhf_core.data.staging import StagedRows, memory_given_back
from rlhf_core.data.token_checks import RecipeTokens
from rlhf_core.data.totals import rule_facts
from rlhf_core.data.writing import measured_sides, write_sides
from rlhf_core.errors import DataError
from rlhf_core.report import Report
from rlhf_core.settings.data import DataSettings, SupportDeskSettings, TableSettings
from rlhf_core.settings.model import ModelSettings
from rlhf_core.world.corpus import write_world

SET_ASIDE = "set-aside.jsonl"
SOURCES = "sources.json"


def make_data(
    settings: DataSettings, model: ModelSettings, *, out_dir: Path, report: Report, seed: int
) -> dict[str, float]:
    """`out_dir` holds the tables of every split, or nothing is trained: a `DataError` says why.

    `report.json` lists every fault in both cases, and `report.html` shows them.
    """
    with scratch_folder(out_dir) as scratch:

        def write(sides: Sides, staged: Mapping[TableName, StagedRows]) -> dict[str, float]:
            return write_sides(sides, staged, out_dir, scratch=scratch)

        named = _named_tables(settings, out_dir, seed)
        return _placed(
            settings, model, named, report, folders=_Folders(out_dir, scratch), finish=write
        )


def rehearse_data(
    settings: DataSettings, model: ModelSettings, *, out_dir: Path, report: Report, seed: int
) -> dict[str, float]:
    """`out_dir` holds the report that `make_data` would write, but no tables."""
    with scratch_folder(out_dir) as scratch:
        named = _named_tables(settings, out_dir, seed)
        return _placed(
            settings,
            model,
            named,
            report,
            folders=_Folders(out_dir, scratch),
            finish=measured_sides,
        )


class _Folders(NamedTuple):
    out_dir: Path
    scratch: Path


@memory_given_back()
def _placed(
    settings: DataSettings,
    model: ModelSettings,
    named: Mapping[TableName, TableSettings],
    report: Report,
    *,
    folders: _Folders,
    finish: Callable[[Sides, Mapping[TableName, StagedRows]], dict[str, float]],
) -> dict[str, float]:
    """All rows checked and each put on its side; `finish` gives what is measured of them there."""
    out_dir, scratch = folders
    splitter = Splitter(scratch, list(named), settings)
    gate = Gate(RecipeTokens(settings, model), scratch=scratch, splitter=splitter)
    checked, found = _check(gate, named, report)
    _refuse_unusable(gate, checked, found, out_dir)
    try:
        sides = splitter.sides({table.table: table.usable for table in checked}, gate.staged)
    except DataError:  # too few keys to split by
        _write(gate, checked, {**found, "usable": False}, out_dir)
        raise
    leaks = gate.tell_leaks(sides, checked)
    _refuse_unusable(gate, checked, found, out_dir)
    metrics = _metrics(sides, checked) | finish(sides, gate.staged)
    found |= {
        "sides": side_facts(sides),
        "splits": [rule.facts() for rule in sides.rules],
        "near_duplicates": leaks,
        "metrics": metrics,
    }
    _write(gate, checked, found, out_dir)
    return metrics


def examine_data(
    settings: DataSettings, model: ModelSettings, *, out_dir: Path, report: Report, seed: int
) -> None:
    """`out_dir` holds the report of all rows, which are neither split nor written anywhere.

    Raises DataError where they cannot be used, as `make_data` does.
    """
    named = _named_tables(settings, out_dir, seed)
    with scratch_folder(out_dir) as scratch:
        gate = Gate(RecipeTokens(settings, model, of_a_recipe=False), scratch=scratch)
        checked, found = _check(gate, named, report)
        _refuse_unusable(gate, checked, found, out_dir)
        _write(gate, checked, found, out_dir)


def _check(
    gate: Gate, named: Mapping[TableName, TableSettings], report: Report
) -> tuple[list[CheckedTable], dict[str, object]]:
    """All tables, read and checked, and what was found out about their rows."""
    checked: list[CheckedTable] = []
    found: dict[str, object] = {}
    for step, (table, table_settings) in enumerate(named.items(), start=1):
        accounts, checks = accounts_of(table), gate.tokens.checks(table)
        of_table = gate.check(table, table_settings, accounts, checks)
        checked.append(of_table)
        found[table] = {**checks.facts(), "distributions": facts_of(accounts)}
        report(step, {f"{table}_rows": of_table.row_count})
    return checked, {"tables": found}


def _refuse_unusable(
    gate: Gate, checked: Sequence[CheckedTable], found: Mapping[str, object], out_dir: Path
) -> None:
    """Raise DataError where the tables cannot be used; the report is written first."""
    message = refusal(checked, str(out_dir / REPORT))
    if message is not None:
        _write(gate, checked, {**found, "usable": False}, out_dir)
        raise DataError(message)


def _named_tables(
    settings: DataSettings, out_dir: Path, seed: int
) -> dict[TableName, TableSettings]:
    """The tables to read: those of the recipe, or the files of the world, written first."""
    if settings.world is not None:
        raw = out_dir / "raw"
        raw.mkdir()
        write_world(settings.world, raw, seed=seed)
        return _world_tables(settings.world, raw)
    named: dict[TableName, TableSettings | None] = {
        "demonstrations": settings.demonstrations,
        "preferences": settings.preferences,
        "prompts": settings.prompts,
        "text": settings.text,
    }
    return {table: given for table, given in named.items() if given is not None}


def _world_tables(world: SupportDeskSettings, raw: Path) -> dict[TableName, TableSettings]:
    ranked = ["rankings.jsonl", "pairs.jsonl"] if world.pairs else ["rankings.jsonl"]
    text: dict[TableName, TableSettings] = {}
    if world.texts:
        text["text"] = TableSettings(source=str(raw / "text.jsonl"))
    return {
        "demonstrations": TableSettings(source=str(raw / "demonstrations.jsonl")),
        "preferences": TableSettings(source=tuple(str(raw / name) for name in ranked)),
        "prompts": TableSettings(source=str(raw / "prompts.jsonl")),
        **text,
    }


def _write(
    gate: Gate, checked: Sequence[CheckedTable], found: Mapping[str, Any], out_dir: Path
) -> None:
    """`out_dir` holds the report, the rows set aside and the sources."""
    tables: dict[str, dict[str, Any]] = {
        table.table: table.facts() | found["tables"][table.table] for table in checked
    }
    facts = {
        "split_by": gate.tokens.settings.split_by,
        "lengths_counted_in": gate.tokens.counter.unit,
        "tokenizer": gate.tokens.facts(),
        "usable": True,
        **found,
        "tables": tables,
        "rules": rule_facts(tables, rule_actions(gate.tokens.settings)),
    }
    _write_json(out_dir / SOURCES, [source for table in checked for source in table.sources])
    _write_set_aside(out_dir / SET_ASIDE, checked, gate.staged)
    faults = (_fault(table.table, fault) for table in checked for fault in table.faults())
    write_report(out_dir / REPORT, facts, faults)
    shown = [
        _fault(table.table, fault)
        for table in checked
        for faults_of_rule in table.tally.shown.values()
        for fault in faults_of_rule
    ]
    (out_dir / PAGE).write_text(data_page(facts, shown), encoding="utf-8")


def _fault(table: str, fault: Fault) -> dict[str, object]:
    return {"table": table, **fault._asdict(), "title": RULES[fault.rule].title}


def _metrics(sides: Sides, checked: Sequence[CheckedTable]) -> dict[str, float]:
    """Rows of each table and split, rows set aside, and rows that are too long."""
    metrics: dict[str, float] = {
        f"{table}_{split}": len(side.rows)
        for table, splits in sides.tables.items()
        for split, side in splits.items()
    }
    metrics["set_aside"] = sum(table.tally.rows_aside for table in checked)
    metrics["too_long"] = sum(
        table.tally.too_long_rows + table.tally.prompts_cut for table in checked
    )
    return metrics


def _write_set_aside(
    path: Path, checked: Sequence[CheckedTable], staged: Mapping[TableName, StagedRows]
) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for table in checked:
            for entry in table.aside_rows.entries(staged.get(table.table)):
                file.write(json.dumps({"table": table.table, **entry}) + "\n")


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
