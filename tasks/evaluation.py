"""The evaluation as a Prefect task."""

from collections.abc import Mapping
from pathlib import Path

from rlhf_core.checkpoints import Checkpoints
from rlhf_core.report import Report
from tasks.handles import Handle, PipelineRun, StageJob
from tasks.reuse import make_or_reuse


def run_evaluation(job: StageJob, pipeline: PipelineRun) -> Handle:
    """Scores, win rates and pictures of all policies on prompts that no stage was trained on."""
    return make_or_reuse(job, pipeline, _make)


def _make(
    job: StageJob, out_dir: Path, report: Report, _checkpoints: Checkpoints
) -> Mapping[str, float]:
    from rlhf_core.stages.evaluation import make_evaluation

    recipe = job.recipe
    return make_evaluation(
        recipe.evaluation,
        recipe.model,
        data=job.input_path("data"),
        sft=job.input_path("sft"),
        reward_model=job.input_path("reward_model") if "reward_model" in job.inputs else None,
        ppo=job.input_path("ppo"),
        out_dir=out_dir,
        report=report,
        seed=recipe.seed,
    )
