"""What SFT carries from epoch to epoch: the best weights so far, kept epochs, samples."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedModel

from rlhf_core.batches import SpecialTokens, pad_right
from rlhf_core.errors import TrainingStopped
from rlhf_core.generation import sample_in_batches
from rlhf_core.repetition import repetition
from rlhf_core.settings.sft import SftSettings
from rlhf_core.training.sft_notes import overfitting_note, sample_notes
from rlhf_core.training.trained import copied_tensors, take_tensors

NO_TOKEN = -1
"""Fills the ids of samples, which are carried as one tensor an epoch."""


class EpochSampler(NamedTuple):
    """How the policy is asked after each epoch, always the same prompts."""

    prompts: Sequence[Sequence[int]]
    special: SpecialTokens
    max_tokens: int
    temperature: float
    usual_repetition: float
    """Share of repeated 4-grams in the demonstrations' responses to these prompts."""

    def sample(self, policy: PreTrainedModel, *, seed: int) -> list[list[int]]:
        """Ids of one response to each prompt; training's random numbers are not touched."""
        was_training = policy.training
        policy.eval()
        sequences = sample_in_batches(
            policy,
            self.prompts,
            special=self.special,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            batch_size=64,
            seed=seed,
        ).sequences
        policy.train(was_training)
        rows = zip(sequences.response_ids, sequences.response_mask, strict=True)
        return [ids[mask].tolist() for ids, mask in rows]


class SftOutcome(NamedTuple):
    """Where training ended, and the evaluation whose weights were kept."""

    steps: int
    best_step: int
    validation_loss: float
    stopped_early: bool
    turned_at: int
    """Step at the end of the first epoch since which no validation loss was the best; else 0."""

    samples: Mapping[int, Sequence[Sequence[int]]]
    """Ids of the samples after each whole epoch."""

    epochs: Mapping[int, Mapping[str, Tensor]]
    """Trained weights after each whole epoch, where they are kept."""


@dataclass
class SftCourse:
    """The course of a training; its groups of numbers and tensors are saved and brought back."""

    settings: SftSettings
    per_epoch: int
    notice: Callable[[str], None]
    numbers: dict[str, dict[str, float]] = field(default_factory=dict)
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.numbers["best"] = {
            "step": 0,
            "validation_loss": math.inf,
            "misses": 0,
            "last": math.nan,
            "turned_at": 0,
            "said": 0,
        }
        self.tensors |= {"best": {}, "samples": {}}
        if self.settings.keeps_epochs:
            self.tensors |= {f"epoch-{n}": {} for n in range(1, self.settings.epochs + 1)}

    @property
    def best(self) -> dict[str, float]:
        """The best evaluation, and how many came after it without a better one."""
        return self.numbers["best"]

    @property
    def out_of_patience(self) -> bool:
        """Whether so many evaluations were no better that training ends."""
        patience = self.settings.patience
        return patience is not None and self.best["misses"] >= patience

    def evaluated(self, policy: PreTrainedModel, *, step: int, loss: float) -> None:
        """Keep the weights if the loss is the best so far, else count a miss.

        The first epoch that ends worse is said: training then fits what it sees, not what it does
        not.
        """
        best = self.best
        best["last"] = loss
        if loss < best["validation_loss"]:
            best |= {"step": step, "validation_loss": loss, "misses": 0, "turned_at": 0}
            if self.settings.selection != "last":
                self.tensors["best"] |= copied_tensors(policy)
            return
        best["misses"] += 1
        ends_an_epoch = step % self.per_epoch == 0
        if not (ends_an_epoch and math.isfinite(loss) and best["step"]) or best["turned_at"]:
            return
        best["turned_at"] = step
        if not best["said"]:
            best["said"] = 1
            self.notice(
                overfitting_note(
                    best["validation_loss"],
                    best["step"] / self.per_epoch,
                    loss,
                    step / self.per_epoch,
                    keeps_best=self.settings.selection != "last",
                )
            )

    def epoch_ended(
        self, policy: PreTrainedModel, epoch: int, sampler: EpochSampler | None, *, seed: int
    ) -> dict[str, float]:
        """Keep the epoch's weights where they are wanted, and say what its samples look like."""
        if self.settings.keeps_epochs:
            self.tensors[f"epoch-{epoch}"] |= copied_tensors(policy)
        if sampler is None:
            return {}
        rows = sampler.sample(policy, seed=seed)
        self.tensors["samples"][str(epoch)] = _as_tensor(rows)
        metrics = repetition(rows, end_token_ids=sampler.special.end)
        for note in sample_notes(
            metrics,
            epoch=epoch,
            max_tokens=sampler.max_tokens,
            usual_repetition=sampler.usual_repetition,
        ):
            self.notice(note)
        return metrics

    def finished(self, policy: PreTrainedModel, *, step: int) -> SftOutcome:
        """Bring the selected weights into `policy`; TrainingStopped where none can be told good."""
        best = self.best
        if not best["step"]:
            raise TrainingStopped(
                "No validation loss of SFT was finite: lower sft.learning_rate, or look for "
                "extreme rows."
            )
        is_last = self.settings.selection == "last"
        if not is_last:
            take_tensors(policy, self.tensors["best"])
        return SftOutcome(
            steps=step,
            best_step=int(best["step"]),
            validation_loss=best["last"] if is_last else best["validation_loss"],
            stopped_early=self.out_of_patience,
            turned_at=int(best["turned_at"]),
            samples={
                epoch: _as_rows(self.tensors["samples"][str(epoch)])
                for epoch in sorted(map(int, self.tensors["samples"]))
            },
            epochs={epoch: self._kept(epoch) for epoch in self._kept_epochs()},
        )

    def _kept_epochs(self) -> list[int]:
        names = (f"epoch-{epoch}" for epoch in range(1, self.settings.epochs + 1))
        return [n for n, name in enumerate(names, start=1) if self.tensors.get(name)]

    def _kept(self, epoch: int) -> dict[str, Tensor]:
        return dict(sorted(self.tensors[f"epoch-{epoch}"].items()))


def _as_tensor(rows: Sequence[Sequence[int]]) -> Tensor:
    return pad_right(rows, NO_TOKEN)[0]


def _as_rows(ids: Tensor) -> list[list[int]]:
    return [row[row != NO_TOKEN].tolist() for row in ids]


def evaluation_steps(per_epoch: int, settings: SftSettings) -> set[int]:
    """Steps of an epoch, counted from 1, after which the validation loss is measured."""
    times = settings.evaluations_per_epoch
    return {max(1, round(per_epoch * index / times)) for index in range(1, times + 1)}
