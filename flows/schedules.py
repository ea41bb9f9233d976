"""A recipe as a Prefect deployment: served by this process, or run by the workers of a pool."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import click

from flows.ui import LOOPBACK, POLL_SECONDS, STOP_SECONDS, prefect_command
from rlhf_core.errors import StorageError, UserError
from rlhf_core.settings.recipe import Recipe
from tasks.environment import shared_environment
from tasks.reaper import reaping

START_SECONDS = 120.0
"""How long a Prefect server may take to answer; a new database takes twenty on a small machine."""

Overlap = Literal["skip", "queue"]


@dataclass(frozen=True)
class Schedule:
    """When a recipe runs, and what happens while an earlier run of it still does."""

    cron: str | None
    interval: timedelta | None
    overlap: Overlap


def serve_recipe(recipe: Recipe, store: Path, schedule: Schedule, *, port: int) -> None:
    """The recipe runs by its schedule until this process is stopped.

    Without PREFECT_API_URL a Prefect server of its own runs beside it, on loopback: the temporary
    one of a single run has no scheduler.
    """
    with _prefect_server(port) as (pages, spared), reaping(store):
        from flows.serving import serve_until_stopped

        deployment = _deployment(recipe, store, schedule)
        click.echo(f"Recipe {recipe.name} is served; Prefect's pages: {pages}. Ctrl-C stops.")
        signum = serve_until_stopped(deployment, spared)
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
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            kind = client.read_work_pool(pool).type
        except ObjectNotFound:
            raise UserError(
                f"Prefect knows no work pool {pool!r}. Make it: `prefect work-pool create {pool} "
                "--type process`."
            ) from None
    variables: dict[str, Any] = {"env": shared_environment()}
    if kind == "process":
        variables["working_dir"] = str(Path.cwd())  # the recipe may name files relative to it
    deployment = _deployment(
        recipe, store, schedule, name=name, work_pool_name=pool, job_variables=variables
    )
    deployment.apply()
    return f"rlhf/{name or recipe.name}"


def _deployment(
    recipe: Recipe, store: Path, schedule: Schedule, name: str | None = None, **placed: Any
) -> Any:
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.types.entrypoint import EntrypointType

    from flows.rlhf import rlhf_pipeline

    strategies = {
        "skip": ConcurrencyLimitStrategy.CANCEL_NEW,
        "queue": ConcurrencyLimitStrategy.ENQUEUE,
    }
    return rlhf_pipeline.to_deployment(
        name or recipe.name,
        cron=schedule.cron,
        interval=schedule.interval,
        paused=False,
        parameters={"recipe": recipe.model_dump(mode="json"), "store": str(store)},
        concurrency_limit=ConcurrencyLimitConfig(
            limit=1, collision_strategy=strategies[schedule.overlap]
        ),
        entrypoint_type=EntrypointType.MODULE_PATH,
        **placed,
    )


@contextmanager
def _prefect_server(port: int) -> Iterator[tuple[str, set[int]]]:
    """A server that answers, and its process: the configured one, or one until the block ends."""
    configured = os.environ.get("PREFECT_API_URL")
    if configured is not None:
        yield configured.rstrip("/").removesuffix("/api"), set()
        return
    pages = f"http://{LOOPBACK}:{port}"
    environment = os.environ | {
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": pages,
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    }
    server = subprocess.Popen(prefect_command(port), env=environment, start_new_session=True)
    try:
        _wait_until_up(server, f"{pages}/api/health")
        os.environ["PREFECT_API_URL"] = f"{pages}/api"
        yield pages, {server.pid}
    finally:
        server.terminate()
        try:
            server.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait_until_up(server: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(address, timeout=POLL_SECONDS):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_SECONDS)
    raise StorageError(
        f"The Prefect server does not answer at {address}; its own words stand above. Is another "
        "one on this port? Choose another with --prefect-port."
    )
