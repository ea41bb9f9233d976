"""One execution of a recipe from the command: decided early, run, and shown."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from flows import console
from rlhf_core.settings.base import Stage
from rlhf_core.settings.recipe import Recipe
from rlhf_core.stopping import PROCESS
from tasks.commits import is_untold, reused_facts, thread_note
from tasks.environment import (
    CHECKPOINT_VARIABLE,
    check_store_room,
    make_store_folder,
    mlflow_is_served,
    prepare_environment,
)
from tasks.faults import storage_faults_named
from tasks.leftovers import ship_leftovers
from tasks.plan import PlannedStage, plan_recipe
from tasks.reaper import reap
from tasks.store import Store


def prepare(folder: Path, checkpoint_seconds: float | None) -> None:
    """The store can be written, and the environment is filled in for whatever is loaded next."""
    make_store_folder(folder)
    if checkpoint_seconds is not None:
        os.environ[CHECKPOINT_VARIABLE] = str(checkpoint_seconds)
    prepare_environment(folder)


def execute(
    recipe: Recipe,
    folder: Path,
    *,
    force: Sequence[Stage] = (),
    taken: Mapping[Stage, str] | None = None,
    continued: Mapping[Stage, dict[str, Any]] | None = None,
    as_json: bool,
) -> None:
    """Run what has to run and show what each stage came to.

    Where nothing has to, neither Prefect nor MLflow is loaded and no run is recorded.
    """
    store = Store(folder)
    with storage_faults_named(store):
        planned = plan_recipe(recipe, store, force) if not (taken or continued) else []
        if planned and all(_has_ended(store, plan) for plan in planned):
            reap(folder)
            ship_leftovers(folder)
            record = _reused_record(recipe, store, planned)
        else:
            record = _run(
                recipe,
                folder,
                force=tuple(force),
                taken=dict(taken or {}),
                continued=dict(continued or {}),
                as_json=as_json,
            )
    if as_json:
        console.show_json(record)
        return
    console.show_run(record, _places(record))
    note = thread_note(plan.commit for plan in planned if plan.commit is not None)
    if note is not None:
        click.echo(f"\n{note}")
    if record["run_id"] is None:
        count = {5: "five"}.get(len(planned), str(len(planned)))
        click.echo(
            f"\nAll {count} stages were reused: nothing had to run, and no new run is recorded. "
            "`--force STAGE` computes one again."
        )


def _run(
    recipe: Recipe,
    folder: Path,
    *,
    force: tuple[Stage, ...],
    taken: dict[Stage, str],
    continued: dict[Stage, dict[str, Any]],
    as_json: bool,
) -> dict[str, Any]:
    check_store_room(folder)
    with console.stdout_is_ours(as_json=as_json):
        from flows.rlhf import rlhf_pipeline

        if "PREFECT_API_URL" not in os.environ:
            from flows.temporary_server import use_temporary_server

            use_temporary_server()
        console.shorten_faults()
        state = rlhf_pipeline(
            recipe, folder, force=force, taken=taken, continued=continued, return_state=True
        )
        state.result()  # raises what ended the run
        PROCESS.end_if_asked()
    flow_run = str(state.state_details.flow_run_id)
    return next(
        record
        for record in Store(folder).run_records()
        if record.get("prefect_flow_run") == flow_run
    )


def _has_ended(store: Store, plan: PlannedStage) -> bool:
    """Whether the stage's result is there, and MLflow has been told all of it."""
    return plan.commit is not None and not is_untold(store, plan.commit)


def _reused_record(recipe: Recipe, store: Store, planned: Sequence[PlannedStage]) -> dict[str, Any]:
    """What the record of a run would say, had there been one."""
    return {
        "run_id": None,
        "recipe": recipe.name,
        "seed": recipe.seed,
        "state": "reused",
        "stages": {
            plan.stage: reused_facts(store, plan.commit)
            for plan in planned
            if plan.commit is not None
        },
    }


def _places(record: Mapping[str, Any]) -> dict[str, str]:
    """Where to look after a run."""
    last = list(record["stages"].values())[-1]
    hint = "" if mlflow_is_served() else " (after `rlhf ui` on the same store)"
    places = {
        "MLflow": record.get("url", last["url"]) + hint,
        "lineage": f"rlhf lineage {last['digest'][: console.SHOWN_DIGEST]}",
    }
    if "evaluation" in record["stages"]:
        report = Path(record["stages"]["evaluation"]["path"]) / "report.html"
        places = {"report": str(report), **places}
    return places
