"""PPO as a Prefect task."""

from collections.abc import Mapping
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from rlhf_core.report import Report
from tasks.handles import Handle, PipelineRun, StageJob
from tasks.stage_run import STAGE_TAGS, run_stage


@task(name="ppo", tags=STAGE_TAGS, task_run_name="ppo", cache_policy=NO_CACHE)
def run_ppo(job: StageJob, pipeline: PipelineRun) -> Handle:
    """The tuned policy: the SFT policy optimized against the reward model."""

    def make(out_dir: Path, report: Report) -> Mapping[str, float]:
        from rlhf_core.stages.ppo import make_ppo

        return make_ppo(
            job.recipe.ppo,
            job.recipe.model,
            data=job.input_path("data"),
            sft=job.input_path("sft"),
            reward_model=job.input_path("reward_model"),
            out_dir=out_dir,
            report=report,
            seed=job.recipe.seed,
        )

    return run_stage(job, pipeline, make)
