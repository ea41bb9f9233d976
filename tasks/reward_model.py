"""The reward model as a Prefect task."""

from collections.abc import Mapping
from pathlib import Path

from rlhf_core.checkpoints import Checkpoints
from rlhf_core.report import Report
from tasks.handles import Handle, PipelineRun, StageJob
from tasks.reuse import make_or_reuse


def run_reward_model(job: StageJob, pipeline: PipelineRun) -> Handle:
    """The reward model and its scorecard: the SFT policy taught by preferences."""
    return make_or_reuse(job, pipeline, _make)


def _make(
    job: StageJob, out_dir: Path, report: Report, checkpoints: Checkpoints
) -> Mapping[str, float]:
    from rlhf_core.stages.reward_model import make_reward_model

    recipe = job.recipe
    return make_reward_model(
        recipe.reward_model,
        recipe.model,
        data=job.input_path("data"),
        sft=job.input_path("sft"),
        out_dir=out_dir,
        report=report,
        seed=recipe.seed,
        checkpoints=checkpoints,
    )
