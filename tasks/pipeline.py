"""One execution of a recipe: its MLflow run, its record in the store, its page in Prefect."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import runtime
from prefect.artifacts import create_markdown_artifact

from rlhf_core.recipes import dump_recipe
from rlhf_core.settings.base import Stage
from rlhf_core.settings.recipe import Recipe
from rlhf_core.stopping import PROCESS
from tasks.clone import code_diff, code_version
from tasks.faults import later_faults_logged
from tasks.handles import PipelineRun
from tasks.heartbeat import beating
from tasks.leftovers import PIPELINES, ship_leftovers, shipping_finished
from tasks.pages import CODE_DIFF, pipeline_description, pipeline_page
from tasks.provenance import environment_record
from tasks.reaper import reap, report_crashes
from tasks.store import Store
from tasks.tracking import TrackedRun, open_run

INTERRUPTED = "interrupted"


@contextmanager
def open_pipeline(
    recipe: Recipe,
    folder: Path,
    *,
    force: Sequence[Stage],
    taken: Mapping[Stage, str],
    continued: Mapping[Stage, dict[str, Any]],
) -> Iterator[PipelineRun]:
    """Open the run that holds the stages' runs; it ends as its body does, everywhere it is shown.

    Recipe and environment are written to it whole.
    """
    store = Store(folder)
    flow_run_id = runtime.flow_run.id
    tags = run_tags(recipe.name) | {"recipe.seed": str(recipe.seed)}
    journal = folder / PIPELINES / str(flow_run_id)
    reap(folder)
    report_crashes(folder)
    ship_leftovers(folder)
    with (
        shipping_finished(folder),
        beating(folder, stage=None, run_id=None, journal=journal, prefect=prefect_ids()) as heart,
        open_run(recipe.name, recipe.name, tags, parent_run_id=None, journal=journal) as run,
    ):
        heart.note_run(run.run_id)
        run.log_settings(recipe.model_dump(mode="json"))
        run.log_text("recipe.yaml", dump_recipe(recipe))
        run.log_json("environment.json", environment_record())
        if (difference := code_diff()) is not None:
            run.log_text(CODE_DIFF, difference)
        record: dict[str, Any] = {
            "run_id": run.run_id,
            "recipe": recipe.name,
            "seed": recipe.seed,
            "state": "running",
            "started_at": _now(),
            "url": run.url,
            "prefect_flow_run": flow_run_id,
            "folder": str(Path.cwd()),
            "forced": list(force),
            "continued": dict(continued),
            "recipe_sha256": hashlib.sha256(dump_recipe(recipe).encode()).hexdigest(),
            "stages": {},
        }
        store.write_recipe(run.run_id, dump_recipe(recipe))
        try:
            store.write_run(run.run_id, record)
            yield PipelineRun(
                recipe.name, run.run_id, folder, tuple(force), dict(taken), dict(continued)
            )
        except BaseException as error:
            state = end_state(error)
            outcome = {"state": state, "failure": PROCESS.reason(error)}
            with later_faults_logged():
                if not store.knows_run(run.run_id):  # a signal came before the record was written
                    store.write_run(run.run_id, record)
                _close(run, store, outcome, show_in_prefect=state != INTERRUPTED)
            raise
        _close(run, store, {"state": "done"}, show_in_prefect=True)


def prefect_ids() -> tuple[str | None, str | None, int]:
    """The flow run, the task run, and which attempt of the flow run this is."""
    return runtime.flow_run.id, runtime.task_run.id, runtime.flow_run.run_count or 0


def end_state(error: BaseException) -> str:
    """The state in which a run ends by this error: asked to end, or failed."""
    return INTERRUPTED if PROCESS.has_ended(error) else "failed"


def note_stage(pipeline: PipelineRun, stage: str, **facts: object) -> None:
    """Add facts about a stage to the record of the pipeline run."""
    store = Store(pipeline.store)
    record = store.read_run(pipeline.run_id)
    record["stages"].setdefault(stage, {}).update(facts)
    store.write_run(pipeline.run_id, record)


def run_tags(recipe_name: str) -> dict[str, str]:
    """Tags of every MLflow run of ours: the recipe, the code, and the Prefect runs."""
    code = code_version()
    tags = {
        "recipe": recipe_name,
        "code.version": code.package,
        "git.commit": code.git_commit,
        "git.dirty": None if code.git_dirty is None else str(code.git_dirty).lower(),
        "mlflow.source.git.commit": code.git_commit,
        "prefect.flow_run_id": runtime.flow_run.id,
        "prefect.task_run_id": runtime.task_run.id,
    }
    return {name: str(value) for name, value in tags.items() if value is not None}


def _close(
    run: TrackedRun, store: Store, outcome: dict[str, str], *, show_in_prefect: bool
) -> None:
    record = store.read_run(run.run_id) | outcome | {"ended_at": _now()}
    store.write_run(run.run_id, record)
    run.describe(pipeline_description(record))
    if show_in_prefect:
        create_markdown_artifact(
            pipeline_page(record, record["url"]),
            key="pipeline",
            description=f"Stages of recipe {record['recipe']}, with links to MLflow.",
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
