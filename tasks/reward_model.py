"""The reward model as a Prefect task."""

from collections.abc import Mapping
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from rlhf_core.report import Report
from tasks.handles import Handle, PipelineRun, StageJob
from tasks.stage_run import STAGE_TAGS, run_stage


@task(
    name="reward_model",
    tags=STAGE_TAGS,
    task_run_name="reward_model",
    cache_policy=NO_CACHE,
)
def run_reward_model(job: StageJob, pipeline: PipelineRun) -> Handle:
    """The reward model and its scorecard: the SFT policy taught by preferences."""

    def make(out_dir: Path, report: Report) -> Mapping[str, float]:
        from rlhf_core.stages.reward_model import make_reward_model

        return make_reward_model(
            job.recipe.reward_model,
            job.recipe.model,
            data=job.input_path("data"),
            sft=job.input_path("sft"),
            out_dir=out_dir,
            report=report,
            seed=job.recipe.seed,
        )

    return run_stage(job, pipeline, make)
