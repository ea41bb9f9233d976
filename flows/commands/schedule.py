"""`rlhf serve` and `rlhf deploy`: recipes that run by a schedule, or when Prefect is asked to."""

import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import click

from flows.commands.options import (
    checkpoint_option,
    overrides_option,
    port_option,
    recipe_argument,
    store_option,
)
from flows.execution import prepare
from flows.schedules import Overlap, Schedule, deploy_recipe, serve_recipes
from rlhf_core.errors import UserError
from rlhf_core.recipes import load_recipe
from tasks.environment import store_folder

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = timedelta(days=3660)


class Interval(click.ParamType[timedelta]):
    """A span of time such as `90s`, `15m`, `6h` or `1d`; a plain number counts seconds."""

    name = "interval"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        found = re.fullmatch(r"(\d+)([smhd]?)", str(value), re.ASCII)
        seconds = int(found[1]) * _UNITS[found[2] or "s"] if found else 0
        if not 0 < seconds <= _LONGEST.total_seconds():
            self.fail(
                f"{value!r} is no span of time such as 90s, 15m, 6h or 1d, up to {_LONGEST.days}d.",
                param,
                ctx,
            )
        return timedelta(seconds=seconds)


_cron = click.option("--cron", help="When to run, as five fields of cron; in UTC.")
_interval = click.option("--interval", type=Interval(), help="Run so often: 90s, 15m, 6h, 1d.")
_overlap = click.option(
    "--overlap",
    type=click.Choice(["skip", "queue"]),
    default="skip",
    show_default=True,
    help="What happens to a run whose time has come while an earlier one still runs.",
)


@click.command()
@click.argument("recipes", type=click.Path(path_type=Path), nargs=-1, required=True)
@overrides_option
@store_option
@_cron
@_interval
@_overlap
@checkpoint_option
@port_option("--prefect-port", 4200, "Where Prefect's pages are shown, without PREFECT_API_URL.")
def serve(
    recipes: Sequence[Path],
    overrides: Sequence[str],
    store: Path | None,
    cron: str | None,
    interval: timedelta | None,
    *,
    overlap: Overlap,
    checkpoint_seconds: float | None,
    prefect_port: int,
) -> None:
    """Run recipes by a schedule for as long as this command runs.

    Without a schedule they run only when Prefect's page, or `prefect deployment run`, says so.
    """
    settings = [load_recipe(recipe, overrides) for recipe in recipes]
    names = [recipe.name for recipe in settings]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"Two of the recipes are named {twice[0]!r}, and a deployment has the name of its "
            "recipe. Serve them from two commands, or give one another `name`."
        )
    schedule = _schedule(cron, interval, overlap)
    folder = store_folder(store)
    prepare(folder, checkpoint_seconds)
    serve_recipes(settings, folder, schedule, port=prefect_port)


@click.command()
@recipe_argument
@overrides_option
@store_option
@click.option("--pool", required=True, help="Work pool whose workers run the recipe.")
@click.option("--name", help="Name of the deployment; that of the recipe when not given.")
@_cron
@_interval
@_overlap
@checkpoint_option
def deploy(
    recipe: Path,
    overrides: Sequence[str],
    store: Path | None,
    pool: str,
    name: str | None,
    *,
    cron: str | None,
    interval: timedelta | None,
    overlap: Overlap,
    checkpoint_seconds: float | None,
) -> None:
    """Make a recipe a deployment of a Prefect work pool, with a schedule or without."""
    settings = load_recipe(recipe, overrides)
    schedule = _schedule(cron, interval, overlap)
    folder = store_folder(store)
    prepare(folder, checkpoint_seconds)
    full_name = deploy_recipe(settings, folder, schedule, pool=pool, name=name)
    click.echo(
        f"Deployment {full_name} is in pool {pool}.\n"
        f"Run it now: prefect deployment run {full_name}\n"
        f"Its worker: prefect worker start --pool {pool}"
    )


def _schedule(cron: str | None, interval: timedelta | None, overlap: Overlap) -> Schedule:
    if cron is not None and interval is not None:
        raise UserError("Give --cron or --interval, or neither, but not both.")
    return Schedule(cron, interval, overlap)
