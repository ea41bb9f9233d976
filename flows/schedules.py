"""Recipes as Prefect deployments: served by this process, or run by the workers of a pool."""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from flows.prefect_server import LOOPBACK, check_answers, running_server
from rlhf_core.errors import UserError
from rlhf_core.settings.recipe import Recipe
from tasks.environment import shared_environment
from tasks.reaper import reaping

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import WorkPool
    from prefect.deployments.runner import RunnerDeployment

PROCESS_POOL = "process"
"""Kind of work pool whose workers run flows where they are installed themselves."""

PREFECT_IMAGES = "prefecthq/prefect"
"""Images in which Prefect is installed, and nothing of ours."""

Overlap = Literal["skip", "queue"]


@dataclass(frozen=True)
class Schedule:
    """When a recipe runs, if not only when asked to, and what happens while it runs already."""

    cron: str | None
    interval: timedelta | None
    overlap: Overlap


def serve_recipes(recipes: Sequence[Recipe], store: Path, schedule: Schedule, *, port: int) -> None:
    """The recipes run by the schedule, and when Prefect is asked to, until this process is stopped.

    Without PREFECT_API_URL a Prefect server of its own runs beside it, on loopback: the temporary
    one of a single run has no scheduler.
    """
    check_cron(schedule.cron)
    with running_server(port) as server, reaping(store):
        from flows.serving import SavingRunner, run_until_stopped

        with _prefect_client() as client:
            _watch_for_crashes(client)
        runner = SavingRunner(server.processes)
        deployments = [_deployment(recipe, store, schedule) for recipe in recipes]
        for deployment in deployments:
            runner.add_deployment(deployment)
        names = ", ".join(deployment.full_name for deployment in deployments)
        click.echo(f"Served: {names}. Prefect's pages: {server.pages}. Ctrl-C stops.")
        signum = run_until_stopped(runner)
    if signum:
        sys.exit(128 + signum)


def deploy_recipe(
    recipe: Recipe, store: Path, schedule: Schedule, *, pool: str, name: str | None
) -> str:
    """The recipe is a deployment of the work pool; returns the deployment's full name."""
    if "PREFECT_API_URL" not in os.environ:
        raise UserError(
            "PREFECT_API_URL is not set: a deployment needs a Prefect server that stays up. Start "
            "one with `rlhf ui` or `prefect server start` and set its address, for example "
            f"http://{LOOPBACK}:4200/api."
        )
    check_answers(os.environ["PREFECT_API_URL"])
    check_cron(schedule.cron)
    with _prefect_client() as client:
        kind = _usable_pool(client, pool).type
        _watch_for_crashes(client)
    variables: dict[str, Any] = {"env": shared_environment()}
    if kind == PROCESS_POOL:
        variables["working_dir"] = str(Path.cwd())  # the recipe may name files relative to it
    deployment = _deployment(
        recipe, store, schedule, name=name, work_pool_name=pool, job_variables=variables
    )
    deployment.apply()
    return deployment.full_name


def check_cron(cron: str | None) -> None:
    """Refuse what is no cron, or never comes, before any server is started for it.

    A time that never comes, such as 31 February, would stop the server's scheduler.
    """
    if cron is None:
        return
    from prefect.server.schemas.schedules import CronSchedule

    try:
        asyncio.run(CronSchedule(cron=cron, timezone="UTC").get_dates(n=1))
    except ValueError as error:
        raise UserError(
            f"--cron {cron!r} is no time that ever comes. Give five fields, minute, hour, day, "
            'month and weekday: "0 3 * * *" is every night at three.'
        ) from error


def _usable_pool(client: "SyncPrefectClient", name: str) -> "WorkPool":
    """The work pool, whose workers have this package."""
    from prefect.exceptions import ObjectNotFound

    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        raise UserError(
            f"Prefect knows no work pool {name!r}. Make it: `prefect work-pool create {name} "
            f"--type {PROCESS_POOL}`."
        ) from None
    image = _image(pool.base_job_template)
    if pool.type == PROCESS_POOL or (image and not image.startswith(PREFECT_IMAGES)):
        return pool
    raise UserError(
        f"Work pool {name!r} is of type {pool.type}, and its jobs would start "
        f"{image or 'an image of Prefect'}, in which this package is not installed. Set the "
        "pool's `image` to one that holds it (docker/Dockerfile makes one), or make another pool: "
        f"`prefect work-pool create NAME --type {PROCESS_POOL}`."
    )


def _image(job_template: Mapping[str, Any]) -> str | None:
    """The image that a pool's jobs start from unless told otherwise; None where it says none."""
    variables = job_template.get("variables", {}).get("properties", {})
    image = variables.get("image", {}).get("default")
    return image if isinstance(image, str) else None


def _deployment(
    recipe: Recipe, store: Path, schedule: Schedule, name: str | None = None, **placed: Any
) -> "RunnerDeployment":
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.deployments.runner import RunnerDeployment
    from prefect.schedules import Cron, Interval
    from prefect.types.entrypoint import EntrypointType

    from flows.rlhf import rlhf_pipeline

    strategies = {
        "skip": ConcurrencyLimitStrategy.CANCEL_NEW,
        "queue": ConcurrencyLimitStrategy.ENQUEUE,
    }
    when = Cron(schedule.cron, timezone="UTC") if schedule.cron is not None else None
    if schedule.interval is not None:
        when = Interval(schedule.interval, timezone="UTC")
    return RunnerDeployment.from_flow(
        rlhf_pipeline,
        name or recipe.name,
        schedule=when,
        paused=False,
        parameters={"recipe": recipe.model_dump(mode="json"), "store": str(store)},
        concurrency_limit=ConcurrencyLimitConfig(
            limit=1, collision_strategy=strategies[schedule.overlap]
        ),
        entrypoint_type=EntrypointType.MODULE_PATH,
        **placed,
    )


def _watch_for_crashes(client: "SyncPrefectClient") -> None:
    from flows.crash_watch import watch_for_crashes
    from flows.rlhf import rlhf_pipeline

    watch_for_crashes(client, rlhf_pipeline.name)


def _prefect_client() -> "SyncPrefectClient":
    from prefect.client.orchestration import get_client

    return get_client(sync_client=True)
