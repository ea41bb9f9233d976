"""The evaluation as a Prefect task."""

from collections.abc import Mapping
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from rlhf_core.report import Report
from tasks.handles import Handle, PipelineRun, StageJob
from tasks.stage_run import STAGE_TAGS, run_stage


@task(
    name="evaluation",
    tags=STAGE_TAGS,
    task_run_name="evaluation",
    cache_policy=NO_CACHE,
)
def run_evaluation(job: StageJob, pipeline: PipelineRun) -> Handle:
    """Scores, win rates and pictures of all policies on prompts that no stage was trained on."""

    def make(out_dir: Path, report: Report) -> Mapping[str, float]:
        from rlhf_core.stages.evaluation import make_evaluation

        return make_evaluation(
            job.recipe.evaluation,
            job.recipe.model,
            data=job.input_path("data"),
            sft=job.input_path("sft"),
            reward_model=job.input_path("reward_model"),
            ppo=job.input_path("ppo"),
            out_dir=out_dir,
            report=report,
            seed=job.recipe.seed,
        )

    return run_stage(job, pipeline, make)
