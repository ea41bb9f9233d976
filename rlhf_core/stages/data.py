"""The data stage: raw rows in; checked, split tables out."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from rlhf_core.data.checking import CheckedTable, check_table, refusal, rule_actions
from rlhf_core.data.distributions import accounts_of, facts_of
from rlhf_core.data.length_baseline import longer_wins_accuracy
from rlhf_core.data.page import PAGE, data_page
from rlhf_core.data.reading import read_table
from rlhf_core.data.report_file import REPORT, write_report
from rlhf_core.data.rows import Row
from rlhf_core.data.rules import LENGTH_RULES, RULES, count_by_rule
from rlhf_core.data.schemas import TableName
from rlhf_core.data.sides import Sides, split_tables
from rlhf_core.data.token_checks import RecipeTokens
from rlhf_core.data.totals import rule_facts
from rlhf_core.errors import DataError
from rlhf_core.report import Report
from rlhf_core.settings.data import DataSettings, SupportDeskSettings, TableSettings
from rlhf_core.settings.model import ModelSettings
from rlhf_core.tables import write_table
from rlhf_core.world.corpus import write_world

SET_ASIDE = "set-aside.jsonl"
SOURCES = "sources.json"


def make_data(
    settings: DataSettings, model: ModelSettings, *, out_dir: Path, report: Report, seed: int
) -> dict[str, float]:
    """`out_dir` holds the tables of every split, or nothing is trained: a `DataError` says why.

    `report.json` lists every fault in both cases, and `report.html` shows them.
    """
    checked, facts = _check(settings, RecipeTokens(settings, model), out_dir, report, seed)
    sides = split_tables({table.table: table.usable for table in checked}, settings)
    _write_tables(out_dir, sides)
    metrics = _metrics(sides, checked)
    _write_report(out_dir, {**facts, "sides": _side_facts(sides), "metrics": metrics}, checked)
    return metrics


def examine_data(
    settings: DataSettings, model: ModelSettings, *, out_dir: Path, report: Report, seed: int
) -> None:
    """`out_dir` holds the report of all rows, which are neither split nor written anywhere.

    Raises DataError where they cannot be used, as `make_data` does.
    """
    tokens = RecipeTokens(settings, model, of_a_recipe=False)
    checked, facts = _check(settings, tokens, out_dir, report, seed)
    _write_report(out_dir, facts, checked)


def _check(
    settings: DataSettings, tokens: RecipeTokens, out_dir: Path, report: Report, seed: int
) -> tuple[list[CheckedTable], dict[str, object]]:
    """All tables, read and checked, and the facts of them; raises DataError at a refusal."""
    named = _named_tables(settings, out_dir, seed)
    sources: list[dict[str, object]] = []
    checked: list[CheckedTable] = []
    distributions: dict[str, dict[str, object]] = {}
    of_tokens: dict[str, Mapping[str, object]] = {}
    for step, (table, table_settings) in enumerate(named.items(), start=1):
        read = read_table(table_settings, table, split_by=settings.split_by)
        sources.extend(read.sources)
        accounts = accounts_of(table)
        for account in accounts:
            account.add(read.rows)
        checks = tokens.checks(table)
        checked.append(check_table(read, table, settings, checks))
        distributions[table] = facts_of(accounts)
        of_tokens[table] = checks.facts()
        report(step, {f"{table}_rows": read.row_count})
    _write_json(out_dir / SOURCES, sources)
    _write_set_aside(out_dir / SET_ASIDE, checked)
    tables: dict[str, dict[str, object]] = {
        table.table: {
            **_table_facts(table),
            **of_tokens[table.table],
            "distributions": distributions[table.table],
        }
        for table in checked
    }
    message = refusal(checked, str(out_dir / REPORT))
    facts: dict[str, object] = {
        "split_by": settings.split_by,
        "lengths_counted_in": tokens.counter.unit,
        "tokenizer": tokens.facts(),
        "tables": tables,
        "rules": rule_facts(tables, rule_actions(settings)),
        "usable": message is None,
    }
    if message is not None:
        _write_report(out_dir, facts, checked)
        raise DataError(message)
    return checked, facts


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


def _write_tables(out_dir: Path, sides: Sides) -> None:
    for split, rows in sides.demonstrations.items():
        write_table(out_dir, "demonstrations", split, [_demonstration(row) for row in rows])
    for split, rows in sides.preferences.items():
        write_table(out_dir, "preferences", split, [_preference(row) for row in rows])
    for split, rows in sides.prompts.items():
        write_table(out_dir, "prompts", split, [_prompt(row) for row in rows])
    for split, rows in sides.text.items():
        write_table(out_dir, "text", split, [_text(row) for row in rows])


def _demonstration(row: Row) -> dict[str, object]:
    return {"prompt": row.prompt, "response": row.best, "file": row.file, "line": row.line}


def _preference(row: Row) -> dict[str, object]:
    return {
        "prompt": row.prompt,
        "responses": list(row.responses),
        "ranks": list(row.ranks),
        "source": row.source,
        "group": row.group,
        "margin": row.margin,
        "confidence": row.confidence,
        "file": row.file,
        "line": row.line,
    }


def _prompt(row: Row) -> dict[str, object]:
    return {"prompt": row.prompt, "reference": row.best, "file": row.file, "line": row.line}


def _text(row: Row) -> dict[str, object]:
    return {"text": row.prompt, "file": row.file, "line": row.line}


def _write_report(
    out_dir: Path, facts: Mapping[str, object], checked: Sequence[CheckedTable]
) -> None:
    faults = _faults(checked)
    write_report(out_dir / REPORT, facts, faults)
    (out_dir / PAGE).write_text(data_page(facts, faults), encoding="utf-8")


def _table_facts(checked: CheckedTable) -> dict[str, object]:
    return {
        "rows": checked.row_count,
        "usable": len(checked.usable),
        "set_aside": len(checked.set_aside),
        "prompts_cut": checked.prompts_cut,
        "faults_by_rule": count_by_rule(checked.faults),
    }


def _side_facts(sides: Sides) -> dict[str, object]:
    return {
        table: {
            split: {"rows": len(rows), "keys": len({row.key for row in rows})}
            for split, rows in splits.items()
        }
        for table, splits in sides.tables().items()
    } | {"removed": dict(sides.removed)}


def _faults(checked: Sequence[CheckedTable]) -> list[Mapping[str, object]]:
    return [
        {"table": table.table, **fault._asdict(), "title": RULES[fault.rule].title}
        for table in checked
        for fault in table.faults
    ]


def _metrics(sides: Sides, checked: Sequence[CheckedTable]) -> dict[str, float]:
    """Rows of each table and split, rows set aside, mean lengths, and the length-only baseline."""
    metrics: dict[str, float] = {
        f"{table}_{split}": len(rows)
        for table, splits in sides.tables().items()
        for split, rows in splits.items()
    }
    metrics["set_aside"] = sum(len(table.set_aside) for table in checked)
    metrics["too_long"] = sum(
        len({(fault.file, fault.line) for fault in table.faults if fault.rule in LENGTH_RULES})
        + table.prompts_cut
        for table in checked
    )
    for name, texts in {
        "prompt_words": [row.prompt for row in sides.prompts["train"]],
        "demonstration_words": [row.best or "" for row in sides.demonstrations["train"]],
        "preference_words": [text for row in sides.preferences["train"] for text in row.responses],
    }.items():
        if texts:
            metrics[name] = fmean(len(text.split()) for text in texts)
    judged = sides.preferences["validation"]
    if judged:
        metrics["longer_wins_accuracy"] = longer_wins_accuracy(
            [row.responses for row in judged], [row.ranks for row in judged]
        )
    return metrics


def _write_set_aside(path: Path, checked: Sequence[CheckedTable]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for table in checked:
            for place in table.set_aside:
                kept: dict[str, object] = {
                    "table": table.table,
                    "file": place.file,
                    "line": place.line,
                    "rules": place.rules,
                }
                if place.row is not None:
                    kept["prompt"] = place.row.prompt
                    kept["responses"] = place.row.responses
                    kept["ranks"] = place.row.ranks
                file.write(json.dumps(kept) + "\n")


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
