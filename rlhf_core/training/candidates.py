"""Reward models that are trained one after another: seeds to choose from, members, a held-out one.

Each has checkpoints of its own, so that a stage that was ended in the third goes on in the third.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from peft import TaskType
from torch.nn.functional import softplus

from rlhf_core.batches import SpecialTokens
from rlhf_core.checkpoints import Checkpoints
from rlhf_core.errors import DataError
from rlhf_core.history import Recording
from rlhf_core.models import merge_adapter, with_lora
from rlhf_core.pretrained import new_scalar_model
from rlhf_core.report import Report
from rlhf_core.reward_models import RewardModel, new_heads, take_mean_of_heads
from rlhf_core.settings.reward_model import RewardModelSettings
from rlhf_core.training.compared import compare
from rlhf_core.training.ranked import Mismatches, Rankings, drawn_rows
from rlhf_core.training.reward_model import train_reward_model
from rlhf_core.training.state import saving_into

SEEDS_APART = 104_729
"""Between the seeds of a stage's trainings: a prime far above the seeds that people give."""


class Chosen(NamedTuple):
    """What the trainings came to."""

    reward_model: RewardModel
    held_out: RewardModel | None
    steps: int


@dataclass
class Candidates:
    """Trains the reward models that the settings ask for."""

    settings: RewardModelSettings
    sft: Path
    mismatched: Mismatches | None
    validation: Rankings
    special: SpecialTokens
    accelerator: Accelerator
    recording: Recording
    checkpoints: Checkpoints | None
    seed: int
    _steps: int = 0
    _trained: int = 0

    def train(self, rankings: Rankings) -> Chosen:
        """The reward model, the one that is held out where that is asked for, and all steps."""
        settings, ensemble = self.settings, self.settings.ensemble
        own, others = rankings, rankings
        if settings.held_out == "other_rows":
            own, others = _parted(rankings, settings.held_out_share, seed=self.seed)
        if ensemble is not None and ensemble.kind == "seeds":
            seen = drawn_rows(
                len(own), members=ensemble.members, share=ensemble.data_share, seed=self.seed
            )
            members = [self._one(own.rows(rows.nonzero().flatten().tolist())) for rows in seen]
            best_first = self._best_first(members)
            kept = RewardModel([member.first for member in best_first], settings.readout)
            losers: list[RewardModel] = []
        else:
            kept, *losers = self._best_first([self._one(own) for _ in range(settings.seeds)])
        held_out = None
        if settings.held_out == "other_seed":
            held_out = losers[0] if losers else self._one(own, held_out=True)
        if settings.held_out == "other_rows":
            held_out = self._one(others, held_out=True)
        return Chosen(kept, held_out, self._steps)

    @property
    def _count(self) -> int:
        """How many models are trained in all."""
        settings, ensemble = self.settings, self.settings.ensemble
        seeds = settings.seeds
        if ensemble is not None and ensemble.kind == "seeds":
            seeds = ensemble.members
        one_more = settings.held_out == "other_rows" or (
            settings.held_out == "other_seed" and settings.seeds == 1
        )
        return seeds + one_more

    def _one(self, rankings: Rankings, *, held_out: bool = False) -> RewardModel:
        """One reward model, taught the rankings; the first of all by the stage's own seed."""
        number = self._trained
        seed = self.seed + SEEDS_APART * number
        reward_model, rankings = self._new(rankings, seed, single=held_out)
        name = "held_out" if held_out else f"model_{number + 1}"
        checkpoints = self.checkpoints
        if checkpoints is not None and number > 0:
            checkpoints = checkpoints.of_part(name)
        steps = train_reward_model(
            reward_model,
            rankings,
            self.settings,
            self._report("" if number == 0 else f"{name}_"),
            special=self.special,
            mismatched=self.mismatched,
            seed=seed,
            accelerator=self.accelerator,
            saving=saving_into(checkpoints, self.recording),
        )
        self._steps += steps
        self._trained += 1
        merge_adapter(reward_model.first)
        take_mean_of_heads(reward_model)
        return reward_model.eval()

    def _new(self, rankings: Rankings, seed: int, *, single: bool) -> tuple[RewardModel, Rankings]:
        """An untaught reward model, and the rankings with what each of its heads learns from."""
        settings, ensemble = self.settings, self.settings.ensemble
        first = new_scalar_model(self.sft, seed=seed)
        if settings.lora is not None:
            torch.manual_seed(seed)  # adapters draw from torch's global generator
            first.model = with_lora(first.model, settings.lora, task=TaskType.TOKEN_CLS)
        if single or ensemble is None or ensemble.kind == "seeds":
            return RewardModel([first], settings.readout), rankings
        heads = new_heads(first, ensemble.members, seed=seed)
        first.head.requires_grad_(False)  # the mean of the heads takes its place
        if ensemble.data_share < 1:
            seen = drawn_rows(
                len(rankings), members=ensemble.members, share=ensemble.data_share, seed=seed
            )
            rankings = replace(rankings, seen=seen)
        return RewardModel([first], settings.readout, heads), rankings

    def _report(self, prefix: str) -> Report:
        """Steps are counted on from one training to the next, and their metrics told apart."""
        before, number, count = self._steps, self._trained, self._count

        def report(step: int, metrics: Mapping[str, float]) -> None:
            told = {
                name if name == "progress" else prefix + name: value
                for name, value in metrics.items()
            }
            if count > 1 and "progress" in metrics:
                told["progress"] = (number + metrics["progress"]) / count
            self.recording(before + step, told)

        return report

    def _best_first(self, models: list[RewardModel]) -> list[RewardModel]:
        """Those most often right in validation first; of equally right ones the surer."""
        if len(models) == 1:
            return models
        graded = []
        for number, model in enumerate(models):
            found = compare(
                model,
                self.validation,
                special=self.special,
                batch_size=4 * self.settings.batch_size,
            )
            accuracy, loss = found.correct.mean(), softplus(found.worse - found.better).mean()
            graded.append((-float(accuracy), float(loss), number))
        return [models[number] for _, _, number in sorted(graded)]


def _parted(rankings: Rankings, share: float, *, seed: int) -> tuple[Rankings, Rankings]:
    """Most rows, and the share that another model learns from; no prompt is on both sides."""
    prompts = sorted({tuple(prompt) for prompt in rankings.prompts})
    if len(prompts) < 2:
        raise DataError(
            "reward_model.held_out=other_rows needs rankings of two prompts at least, and there is "
            "one: give more preferences, or use other_seed."
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(prompts), generator=generator).tolist()
    count = min(max(1, round(share * len(prompts))), len(prompts) - 1)
    taken = {prompts[place] for place in order[:count]}
    others = [row for row, prompt in enumerate(rankings.prompts) if tuple(prompt) in taken]
    own = [row for row, prompt in enumerate(rankings.prompts) if tuple(prompt) not in taken]
    return rankings.rows(own), rankings.rows(others)
