"""Supervised fine-tuning as a Prefect task."""

from collections.abc import Mapping
from pathlib import Path

from rlhf_core.checkpoints import Checkpoints
from rlhf_core.report import Report
from tasks.handles import Handle, PipelineRun, StageJob
from tasks.reuse import make_or_reuse


def run_sft(job: StageJob, pipeline: PipelineRun) -> Handle:
    """The SFT policy: the base model fine-tuned on the demonstrations."""
    return make_or_reuse(job, pipeline, _make)


def _make(
    job: StageJob, out_dir: Path, report: Report, checkpoints: Checkpoints
) -> Mapping[str, float]:
    from rlhf_core.stages.sft import make_sft

    recipe = job.recipe
    return make_sft(
        recipe.sft,
        recipe.model,
        data=job.input_path("data"),
        out_dir=out_dir,
        report=report,
        seed=recipe.seed,
        checkpoints=checkpoints,
    )
