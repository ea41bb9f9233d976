"""One execution of a recipe: its MLflow run, its record in the store, its page in Prefect."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import runtime
from prefect.artifacts import create_markdown_artifact

from rlhf_core.recipes import dump_recipe
from rlhf_core.settings.recipe import Recipe
from tasks.environment import make_store_folder
from tasks.handles import PipelineRun
from tasks.pages import pipeline_description, pipeline_page, run_url
from tasks.provenance import code_version, environment_record
from tasks.store import Store
from tasks.tracking import TrackedRun, open_run


@contextmanager
def open_pipeline(recipe: Recipe, folder: Path) -> Iterator[PipelineRun]:
    """Open the run that holds the stages' runs; it ends as its body does, everywhere it is shown.

    Recipe and environment are written to it whole.
    """
    make_store_folder(folder)
    store = Store(folder)
    flow_run_id = runtime.flow_run.id
    tags = run_tags(recipe.name) | {"recipe.seed": str(recipe.seed)}
    with open_run(recipe.name, recipe.name, tags, parent_run_id=None) as run:
        run.log_settings(recipe.model_dump(mode="json"))
        run.log_text("recipe.yaml", dump_recipe(recipe))
        run.log_json("environment.json", environment_record())
        record: dict[str, Any] = {
            "run_id": run.run_id,
            "recipe": recipe.name,
            "seed": recipe.seed,
            "state": "running",
            "started_at": _now(),
            "url": run_url(run.experiment_id, run.run_id),
            "prefect_flow_run": flow_run_id,
            "stages": {},
        }
        store.write_run(run.run_id, record)
        try:
            yield PipelineRun(recipe.name, run.run_id, folder)
        except BaseException as error:
            interrupted = not isinstance(error, Exception)
            outcome = {
                "state": "interrupted" if interrupted else "failed",
                "failure": str(error) or type(error).__name__,
            }
            _close(run, store, outcome, show_in_prefect=not interrupted)
            raise
        _close(run, store, {"state": "done"}, show_in_prefect=True)


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
