"""What the command shows: tables for people, one JSON document for machines."""

import contextlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from rlhf_core.errors import RlhfError
from rlhf_core.stopping import PROCESS
from tasks.commits import thread_note
from tasks.plan import PlannedStage
from tasks.store_care import StoredArtifact

SHOWN_DIGEST = 12
SHOWN_METRICS = 4
SHOWN_REASONS = 6
HEADLINES: dict[str, tuple[str, ...]] = {
    "data": ("demonstrations_train", "preferences_train", "prompts_train", "set_aside"),
    "sft": ("validation_loss", "steps"),
    "reward_model": ("accuracy", "accuracy_low", "accuracy_high", "longer_wins_accuracy"),
    "ppo": ("score", "kl_to_reference", "ended_share", "response_tokens"),
    "evaluation": ("gold_sft", "gold_ppo", "win_rate_over_sft", "kl_to_reference"),
}
"""What a stage is judged by first; those that it has, and any others where it has none."""


@contextlib.contextmanager
def stdout_is_ours(*, as_json: bool) -> Iterator[None]:
    """With `--json`, whatever a library prints goes to standard error."""
    if not as_json:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield


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
            _origin(facts) + _headlines(stage, facts["metrics"]),
        ]
        for stage, facts in record["stages"].items()
    ]
    click.echo()
    show_table(["stage", "state", "seconds", "artifact", "metrics"], rows)
    click.echo()
    width = max(len(name) for name in places)
    for name, place in places.items():
        click.echo(f"{name:<{width}}  {place}")


def show_plan(planned: Sequence[PlannedStage]) -> None:
    """Print what would happen to each stage, and why."""
    rows = []
    for plan in planned:
        if plan.commit is not None:
            made = plan.commit["ended_at"], plan.commit["runs"]["mlflow_run"][:SHOWN_DIGEST]
            because = [
                f"artifact {plan.commit['digest'][:SHOWN_DIGEST]}, made {made[0]} by {made[1]}"
            ]
        else:
            because = list(plan.reasons[:SHOWN_REASONS])
            if len(plan.reasons) > SHOWN_REASONS:
                because.append(f"and {len(plan.reasons) - SHOWN_REASONS} more (--json names all)")
        rows.append([plan.stage, plan.action, because[0]])
        rows += [["", "", line] for line in because[1:]]
    show_table(["stage", "would", "because"], rows)
    note = thread_note(plan.commit for plan in planned if plan.commit is not None)
    if note is not None:
        click.echo(f"\n{note}")


def show_artifacts(artifacts: Sequence[StoredArtifact]) -> None:
    """Print one line per artifact of a store."""
    rows = [
        [
            artifact.digest[:SHOWN_DIGEST],
            artifact.stage,
            size(artifact.bytes),
            age(artifact.age_seconds),
            ", ".join(
                f"{len(names)} {what if len(names) == 1 else what + 's'}"
                for what, names in (
                    ("commit", artifact.commits),
                    ("dependent", artifact.used_by),
                    ("run", artifact.runs),
                )
                if names
            )
            or "nothing",
        ]
        for artifact in artifacts
    ]
    show_table(["artifact", "stage", "size", "age", "referred to by"], rows)


def size(count: int) -> str:
    """Bytes as people read them, in powers of 1000."""
    for unit, length in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count} B"


def age(seconds: float) -> str:
    """A span of time in its largest whole unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


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


def show_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns as wide as they need to be; the last one as it is."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head) - 1)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, [*widths, 0], strict=True)]
        click.echo("  ".join(cells).rstrip())


def shorten_faults() -> None:
    """Keep Prefect's log from repeating faults that the command names itself, traceback and all.

    Nor does it show what a signal raised on the way out.
    They stay whole on Prefect's own pages. Call it after Prefect has set up its logging.
    """
    for handler in logging.getLogger().handlers:
        handler.addFilter(_shortened)


def leave_out_tracebacks() -> None:
    """Keep tracebacks of faults that the user can mend out of the log, where no command names them.

    What each record says of the fault stays; the tracebacks are on Prefect's own pages.
    """
    for handler in logging.getLogger().handlers:
        handler.addFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], RlhfError):
        record.exc_info = record.exc_text = None
    return True


def _shortened(record: logging.LogRecord) -> bool:
    """Whether a record is shown; one that tells a run's failed state loses the reason in place."""
    if record.exc_info and (PROCESS.signum or isinstance(record.exc_info[1], RlhfError)):
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


def _origin(facts: Mapping[str, Any]) -> str:
    """Whose result a reused stage has, before its metrics; nothing where it was made now."""
    made = facts.get("made")
    if made is None:
        return ""
    return f"made {made['at']} by run {facts['run_id'][:SHOWN_DIGEST]}; "


def _outcome(facts: Mapping[str, Any]) -> str:
    return str(facts["digest"][:SHOWN_DIGEST] if "digest" in facts else facts["state"])
