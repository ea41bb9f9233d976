"""The data stage as a Prefect task."""

from collections.abc import Mapping
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from rlhf_core.report import Report
from tasks.handles import Handle, PipelineRun, StageJob
from tasks.stage_run import STAGE_TAGS, run_stage


@task(name="data", tags=STAGE_TAGS, task_run_name="data", cache_policy=NO_CACHE)
def run_data(job: StageJob, pipeline: PipelineRun) -> Handle:
    """Checked, split and content-hashed tables, from the files that the recipe names."""

    def make(out_dir: Path, report: Report) -> Mapping[str, float]:
        from rlhf_core.stages.data import make_data

        recipe = job.recipe
        return make_data(
            recipe.data, recipe.model, out_dir=out_dir, report=report, seed=recipe.seed
        )

    return run_stage(job, pipeline, make)
