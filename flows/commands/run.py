"""`rlhf run`, `plan` and `rerun`: a recipe, or what would come of it."""

import os
from collections.abc import Sequence
from pathlib import Path

import click

from flows import console
from flows.commands.options import (
    checkpoint_option,
    force_option,
    json_option,
    overrides_option,
    recipe_argument,
    store_option,
)
from flows.execution import execute, prepare
from rlhf_core.errors import UserError
from rlhf_core.recipes import load_recipe
from rlhf_core.settings.base import STAGES, Stage
from tasks.environment import store_folder
from tasks.plan import plan_recipe
from tasks.reruns import plan_rerun
from tasks.store import Store


@click.command()
@recipe_argument
@overrides_option
@store_option
@force_option
@checkpoint_option
@json_option
def run(
    recipe: Path,
    overrides: Sequence[str],
    store: Path | None,
    force: Sequence[Stage],
    checkpoint_seconds: float | None,
    *,
    as_json: bool,
) -> None:
    """Run a recipe from raw rows to the evaluation; what is finished is reused."""
    settings = load_recipe(recipe, overrides)
    beyond = [stage for stage in force if stage not in settings.stages]
    if beyond:
        raise UserError(
            f"--force {beyond[0]}: the recipe ends at {settings.last_stage}, before that stage. "
            "Leave it away, or set last_stage."
        )
    folder = store_folder(store)
    prepare(folder, checkpoint_seconds)
    execute(settings, folder, force=force, as_json=as_json)


@click.command()
@recipe_argument
@overrides_option
@store_option
@force_option
@json_option
def plan(
    recipe: Path,
    overrides: Sequence[str],
    store: Path | None,
    force: Sequence[Stage],
    *,
    as_json: bool,
) -> None:
    """Say which stages of a recipe would run, which are reused, and why; run nothing."""
    settings = load_recipe(recipe, overrides)
    planned = plan_recipe(settings, Store(store_folder(store)), force)
    if as_json:
        console.show_json(
            {"recipe": settings.name, "stages": [stage.to_json() for stage in planned]}
        )
    else:
        console.show_plan(planned)


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option(
    "--from",
    "first",
    type=click.Choice(STAGES),
    help="Compute this stage again and what depends on it; the first unfinished when not given.",
)
@overrides_option
@click.option(
    "--allow-change",
    "allowed",
    multiple=True,
    metavar="FIELD",
    help="Go on from the last checkpoint though --set changes this; the lineage tells it.",
)
@store_option
@checkpoint_option
@json_option
def rerun(
    run_id: str,
    first: Stage | None,
    store: Path | None,
    checkpoint_seconds: float | None,
    *,
    overrides: Sequence[str],
    allowed: Sequence[str],
    as_json: bool,
) -> None:
    """Run the failed stage of a pipeline run again, and what depends on it, on the same inputs.

    RUN is the id, or its beginning, that `rlhf runs` shows. Stages before it are taken from the
    store as that run made them; an interrupted stage continues from its last checkpoint. With --set
    and --allow-change it does so with other settings; what comes of it is never taken for a result
    of those settings alone.
    """
    folder = store_folder(store)
    again = plan_rerun(Store(folder), run_id, first, overrides, allowed)
    if again.folder.is_dir():
        os.chdir(again.folder)
    prepare(folder, checkpoint_seconds)
    execute(
        again.recipe,
        folder,
        force=again.force,
        taken=again.taken,
        continued=again.continued,
        as_json=as_json,
    )
