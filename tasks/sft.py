"""Supervised fine-tuning as a Prefect task."""

from collections.abc import Mapping
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from rlhf_core.report import Report
from tasks.handles import Handle, PipelineRun, StageJob
from tasks.stage_run import STAGE_TAGS, run_stage


@task(name="sft", tags=STAGE_TAGS, task_run_name="sft", cache_policy=NO_CACHE)
def run_sft(job: StageJob, pipeline: PipelineRun) -> Handle:
    """The SFT policy: the base model fine-tuned on the demonstrations."""

    def make(out_dir: Path, report: Report) -> Mapping[str, float]:
        from rlhf_core.stages.sft import make_sft

        return make_sft(
            job.recipe.sft,
            job.recipe.model,
            data=job.input_path("data"),
            out_dir=out_dir,
            report=report,
            seed=job.recipe.seed,
        )

    return run_stage(job, pipeline, make)
