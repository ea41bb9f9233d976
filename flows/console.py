"""What the command shows: tables for people, one JSON document for machines."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import click

from rlhf_core.errors import RlhfError

SHOWN_DIGEST = 12
SHOWN_METRICS = 4
HEADLINES: dict[str, tuple[str, ...]] = {
    "data": ("demonstrations_train", "preferences_train", "prompts_train", "set_aside"),
    "sft": ("validation_loss", "steps"),
    "reward_model": ("accuracy", "accuracy_low", "accuracy_high", "longer_wins_accuracy"),
    "ppo": ("score", "kl_to_reference", "ended_share", "response_tokens"),
    "evaluation": ("gold_sft", "gold_ppo", "win_rate_over_sft", "kl_to_reference"),
}
"""What a stage is judged by first; those that it has, and any others where it has none."""


def show_json(document: object) -> None:
    """Print the one document that `--json` promises."""
    click.echo(json.dumps(document, indent=1, ensure_ascii=False))


def show_run(record: Mapping[str, Any], places: Mapping[str, str]) -> None:
    """Print what each stage of a finished run made, and where to look."""
    rows = [
        [
            stage,
            facts["state"],
            f"{facts['seconds']:.1f}",
            facts["digest"][:SHOWN_DIGEST],
            _headlines(stage, facts["metrics"]),
        ]
        for stage, facts in record["stages"].items()
    ]
    click.echo()
    show_table(["stage", "state", "seconds", "artifact", "metrics"], rows)
    click.echo()
    width = max(len(name) for name in places)
    for name, place in places.items():
        click.echo(f"{name:<{width}}  {place}")


def show_runs(records: Sequence[Mapping[str, Any]]) -> None:
    """Print one line per pipeline run, newest first."""
    rows = [
        [
            record["run_id"][:SHOWN_DIGEST],
            record["started_at"],
            f"{record['recipe']} seed {record['seed']}",
            record["state"],
            ", ".join(f"{stage} {_outcome(facts)}" for stage, facts in record["stages"].items()),
        ]
        for record in records
    ]
    show_table(["run", "started", "recipe", "state", "stages"], rows)


def show_report(checked: Mapping[str, Any]) -> None:
    """Print the figures of a data report, section by section."""
    click.echo(f"Data of recipe {checked['recipe']}")
    _show_tree(checked["report"], depth=1)


def show_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns as wide as they need to be; the last one as it is."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head) - 1)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, [*widths, 0], strict=True)]
        click.echo("  ".join(cells).rstrip())


def shorten_faults() -> None:
    """Keep Prefect's log from repeating faults that the command names itself, traceback and all.

    They stay whole on Prefect's own pages. Call it after Prefect has set up its logging.
    """
    for handler in logging.getLogger().handlers:
        handler.addFilter(_shortened)


def _shortened(record: logging.LogRecord) -> bool:
    """Whether a record is shown; one that tells a run's failed state loses the reason in place."""
    if record.exc_info and isinstance(record.exc_info[1], RlhfError):
        return False
    state, failed, _ = record.getMessage().partition(" Failed(")
    if failed and record.name.startswith("prefect."):
        record.msg, record.args = f"{state} Failed", ()
    return True


def _headlines(stage: str, metrics: Mapping[str, float | None]) -> str:
    known = {name: value for name, value in metrics.items() if value is not None}
    first = [name for name in HEADLINES.get(stage, ()) if name in known]
    names = first or list(known)[:SHOWN_METRICS]
    return ", ".join(f"{name} {known[name]:.4g}" for name in names)


def _outcome(facts: Mapping[str, Any]) -> str:
    return str(facts["digest"][:SHOWN_DIGEST] if "digest" in facts else facts["state"])


def _show_tree(value: Mapping[str, Any], *, depth: int) -> None:
    """One line per section of plain values, deeper ones indented below their name."""
    pad = "  " * depth
    for name, inner in value.items():
        if isinstance(inner, Mapping) and any(_is_section(x) for x in inner.values()):
            click.echo(f"{pad}{name}")
            _show_tree(inner, depth=depth + 1)
        elif isinstance(inner, list) and inner:
            click.echo(f"{pad}{name}")
            for row in inner:
                click.echo(f"{pad}  {_leaf(row)}")
        else:
            click.echo(f"{pad}{name}: {_leaf(inner)}")


def _is_section(value: object) -> bool:
    return isinstance(value, Mapping | list) and bool(value)


def _leaf(value: object) -> str:
    if value is None or value in ([], {}):
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_leaf(inner)}" for name, inner in value.items())
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
