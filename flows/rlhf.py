"""The pipeline: which stage takes what from which."""

from pathlib import Path
from typing import Any

from prefect import flow, runtime

from flows.console import leave_out_tracebacks
from rlhf_core.settings.base import Stage
from rlhf_core.settings.recipe import Recipe
from rlhf_core.stopping import PROCESS
from tasks.data import run_data
from tasks.environment import check_store_room, make_store_folder
from tasks.evaluation import run_evaluation
from tasks.faults import storage_faults_named
from tasks.handles import Handle, PipelineRun, stage_job
from tasks.pipeline import open_pipeline
from tasks.ppo import run_ppo
from tasks.reruns import stages_of_attempt
from tasks.reward_model import run_reward_model
from tasks.sft import run_sft
from tasks.store import Store


@flow(name="rlhf", flow_run_name="{recipe.name}-seed-{recipe.seed}")
def rlhf_pipeline(
    recipe: Recipe,
    store: Path,
    force: tuple[Stage, ...] = (),
    taken: dict[Stage, str] | None = None,
    continued: dict[Stage, dict[str, Any]] | None = None,
) -> dict[Stage, Handle]:
    """Raw rows in; a tuned policy and its evaluation out, or less where the recipe ends earlier.

    Finished stages of the same fingerprint are reused, except those in `force`. `taken` names
    artifacts that are used whatever has changed since; when Prefect runs a flow run again, those
    are what its last attempt had finished. `continued` is what the fingerprint of a stage says of
    the checkpoint of other settings from which it goes on.
    """
    leave_out_tracebacks()
    make_store_folder(store)
    check_store_room(store)
    if runtime.flow_run.run_count > 1:
        taken = stages_of_attempt(Store(store), str(runtime.flow_run.id)) or taken
    with (
        PROCESS.answering(),
        storage_faults_named(Store(store)),
        open_pipeline(
            recipe, store, force=force, taken=taken or {}, continued=continued or {}
        ) as pipeline,
    ):
        return run_stages(recipe, pipeline)


def run_stages(recipe: Recipe, pipeline: PipelineRun) -> dict[Stage, Handle]:
    """The artifacts of the recipe's stages, each made from those of earlier ones."""
    data = run_data(stage_job(recipe, "data"), pipeline)
    made: dict[Stage, Handle] = {"data": data}
    if "sft" in recipe.stages:
        sft = made["sft"] = run_sft(stage_job(recipe, "sft", data=data), pipeline)
    if "reward_model" in recipe.stages:
        made["reward_model"] = run_reward_model(
            stage_job(recipe, "reward_model", data=data, sft=sft), pipeline
        )
    if "ppo" in recipe.stages:
        made["ppo"] = run_ppo(stage_job(recipe, "ppo", **made), pipeline)
    if "evaluation" in recipe.stages:
        made["evaluation"] = run_evaluation(stage_job(recipe, "evaluation", **made), pipeline)
    return made
