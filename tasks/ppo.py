"""PPO as a Prefect task."""

from collections.abc import Mapping
from pathlib import Path

from rlhf_core.checkpoints import Checkpoints
from rlhf_core.report import Report
from tasks.handles import Handle, PipelineRun, StageJob
from tasks.reuse import make_or_reuse


def run_ppo(job: StageJob, pipeline: PipelineRun) -> Handle:
    """The tuned policy: the SFT policy optimized against the reward model."""
    return make_or_reuse(job, pipeline, _make)


def _make(
    job: StageJob, out_dir: Path, report: Report, checkpoints: Checkpoints
) -> Mapping[str, float]:
    from rlhf_core.stages.ppo import make_ppo

    recipe = job.recipe
    return make_ppo(
        recipe.ppo,
        recipe.model,
        data=job.input_path("data"),
        sft=job.input_path("sft"),
        reward_model=job.input_path("reward_model") if "reward_model" in job.inputs else None,
        out_dir=out_dir,
        report=report,
        seed=recipe.seed,
        checkpoints=checkpoints,
    )
