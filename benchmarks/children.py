"""Stages run in children of a process that has loaded torch once, to be killed there."""

import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rlhf_core.checkpoints import Checkpoints
from rlhf_core.errors import RlhfError
from rlhf_core.recipes import load_recipe
from rlhf_core.report import ignore
from rlhf_core.settings.base import Stage
from rlhf_core.settings.recipe import Recipe

RECIPE = Path(__file__).parent.parent / "recipes" / "support-desk.yaml"

SMALL = (
    "data.world={demonstrations: 400, rankings: 60, pairs: 10, prompts: 120}",
    "model.scratch={hidden_size: 32, layers: 1, heads: 2, intermediate_size: 64}",
    "sft.epochs=3",
    "sft.learning_rate=0.02",
    "reward_model.mismatch_rows=300",
    "reward_model.normalization_rows=32",
    "ppo.updates=12",
    "ppo.rollout_batch_size=16",
    "ppo.mini_batch_size=8",
    "ppo.micro_batch_size=8",
    "ppo.kl_target=6.0",
)
"""What makes the recipe small; still each stage takes a dozen steps or more."""

PRELOADED = [f"rlhf_core.stages.{stage}" for stage in ("data", "sft", "reward_model", "ppo")]

MOST_SECONDS_TO_LEAVE = 10.0
HANGS_AFTER_SECONDS = 300.0

Moment = Callable[[BaseProcess], object]
"""Returns when it is time to send the signal, or when the process has ended by itself."""


@dataclass(frozen=True)
class Job:
    """One stage run: where its inputs are, and where its payload and checkpoints go."""

    stage: Stage
    inputs: Path
    work: Path
    overrides: tuple[str, ...]

    @property
    def payload(self) -> Path:
        """The folder of the stage's payload."""
        return self.work / "payload"

    @property
    def checkpoints(self) -> Path:
        """The folder of the stage's checkpoints."""
        return self.work / "checkpoints"


def run_stage(job: Job) -> None:
    """Compute the stage in this process, as a task does; its errors become exit codes."""
    import torch

    torch.set_num_threads(1)
    recipe = load_recipe(RECIPE, list(job.overrides))
    if job.payload.exists():
        shutil.rmtree(job.payload)
    job.payload.mkdir(parents=True)
    try:
        _maker(job, recipe)()
    except RlhfError as error:
        _note(job, str(error))
        sys.exit(error.exit_code)


def _maker(job: Job, recipe: Recipe) -> Callable[[], dict[str, float]]:
    common: dict[str, Any] = {"out_dir": job.payload, "report": ignore, "seed": recipe.seed}
    if job.stage == "data":
        from rlhf_core.stages.data import make_data

        return partial(make_data, recipe.data, recipe.model, **common)
    common["data"] = job.inputs / "data" / "payload"
    common["checkpoints"] = Checkpoints(
        job.checkpoints, {"job": job.stage}, every_steps=1, notice=partial(_note, job)
    )
    if job.stage == "sft":
        from rlhf_core.stages.sft import make_sft

        return partial(make_sft, recipe.sft, recipe.model, **common)
    common["sft"] = job.inputs / "sft" / "payload"
    if job.stage == "reward_model":
        from rlhf_core.stages.reward_model import make_reward_model

        return partial(make_reward_model, recipe.reward_model, recipe.model, **common)
    from rlhf_core.stages.ppo import make_ppo

    common["reward_model"] = job.inputs / "reward_model" / "payload"
    return partial(make_ppo, recipe.ppo, recipe.model, **common)


def _note(job: Job, line: str) -> None:
    with (job.work / "notices.txt").open("a", encoding="utf-8") as file:
        file.write(line.replace("\n", " ") + "\n")


class Bench:
    """Children of a process that has loaded torch once, and the stages they ran."""

    def __init__(self, folder: Path, overrides: Sequence[str] = SMALL) -> None:
        self.folder = folder
        self.overrides = tuple(overrides)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)

    def job(self, stage: Stage, name: str) -> Job:
        """A stage run on the reference's inputs, in a folder of its own."""
        return Job(stage, self.folder / "reference", self.folder / name / stage, self.overrides)

    def finish(self, job: Job) -> int | None:
        """Run the job to its end; its exit code, or None where it hangs."""
        child, _ = self._started(job)
        child.join(HANGS_AFTER_SECONDS)
        return _end_of(child)

    def interrupt(self, job: Job, signum: int, moment: Moment) -> "Ended":
        """Run the job and send it `signum` once the moment has come; what became of it."""
        child, started = self._started(job)
        moment(child)
        seconds = time.monotonic() - started
        if child.exitcode is not None:
            return Ended(child.exitcode, seconds, 0.0, was_hit=False)
        assert child.pid is not None, "it was started"
        asked = time.monotonic()
        os.kill(child.pid, signum)
        child.join(MOST_SECONDS_TO_LEAVE)
        left = time.monotonic() - asked
        return Ended(_end_of(child), seconds, left, was_hit=True)

    def _started(self, job: Job) -> tuple[BaseProcess, float]:
        child = self.context.Process(target=run_stage, args=(job,))
        started = time.monotonic()
        child.start()
        return child, started


def after(seconds: float) -> Moment:
    """The moment so many seconds after the start, or the end where that is earlier."""
    return lambda child: child.join(seconds)


def _end_of(child: BaseProcess) -> int | None:
    """The exit code; None for one that would not end, which is killed."""
    exitcode = child.exitcode
    if exitcode is None:
        child.kill()
        child.join()
    return exitcode


@dataclass(frozen=True)
class Ended:
    """How a child ended: None as its exit code says that it did not by itself."""

    exitcode: int | None
    seconds: float
    left_after: float
    was_hit: bool
