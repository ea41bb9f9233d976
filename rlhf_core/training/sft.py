"""Supervised fine-tuning: the policy learns to continue prompts as the demonstrations do."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from rlhf_core.batches import Sequences, join, shuffled_batches
from rlhf_core.errors import TrainingStopped
from rlhf_core.generation import response_distribution
from rlhf_core.maths.logprobs import taken_logprobs
from rlhf_core.maths.losses import language_model_loss
from rlhf_core.maths.schedules import cosine_with_warmup
from rlhf_core.report import Report
from rlhf_core.settings.sft import SftSettings
from rlhf_core.threads import side_by_side
from rlhf_core.training.optimization import (
    Part,
    adamw,
    micro_batches,
    optimizer_step,
    own_share,
    set_learning_rate,
    summed,
)
from rlhf_core.training.state import Saving, TrainingState
from rlhf_core.training.trained import Trained, take_tensors, trained_tensors


@dataclass(frozen=True)
class Demonstrations:
    """Token ids of prompts, and of the responses to imitate; each response ends with EOS."""

    prompts: Sequence[Sequence[int]]
    responses: Sequence[Sequence[int]]

    def joined(self, rows: Sequence[int], pad_token_id: int) -> Sequences:
        """The given rows as one padded batch."""
        return join(
            [self.prompts[row] for row in rows],
            [self.responses[row] for row in rows],
            pad_token_id,
        )

    def tokens(self, rows: Sequence[int]) -> int:
        """How many response tokens the rows hold."""
        return sum(len(self.responses[row]) for row in rows)

    def with_loss_on_prompts(self) -> "Demonstrations":
        """The same rows with all but the first prompt token moved to the response (S8, N+)."""
        return Demonstrations(
            [prompt[:1] for prompt in self.prompts],
            [
                [*prompt[1:], *response]
                for prompt, response in zip(self.prompts, self.responses, strict=True)
            ],
        )


class SftOutcome(NamedTuple):
    """Where training ended, and the evaluation whose weights were kept."""

    steps: int
    best_step: int
    validation_loss: float
    stopped_early: bool


def sft_loss(policy: torch.nn.Module, batch: Sequences) -> Tensor:
    """Mean negative log-likelihood in nats per response token, end token included."""
    log_probs = response_distribution(policy, batch, pad_token_id=None, temperature=1.0)
    return language_model_loss(taken_logprobs(log_probs, batch.response_ids), batch.response_mask)


def train_sft(
    policy: PreTrainedModel,
    train: Demonstrations,
    validation: Demonstrations,
    settings: SftSettings,
    report: Report,
    *,
    pad_token_id: int,
    seed: int,
    accelerator: Accelerator,
    saving: Saving | None = None,
) -> SftOutcome:
    """Teach `policy` the demonstrations in place; the weights of the best validation loss remain.

    Gradients are means over the response tokens of the whole batch, whatever the micro-batches.
    """
    if settings.loss_on == "all":
        train, validation = train.with_loss_on_prompts(), validation.with_loss_on_prompts()
    per_epoch = -(-len(train.prompts) // settings.batch_size)
    steps = per_epoch * settings.epochs
    optimizer = adamw(policy, settings.learning_rate, weight_decay=settings.weight_decay)
    model, optimizer = accelerator.prepare(policy, optimizer)
    measured_at = _evaluation_steps(per_epoch, settings)
    best: dict[str, float] = {"step": 0, "validation_loss": math.inf, "misses": 0}
    kept: dict[str, Tensor] = {}
    state = TrainingState(
        saving,
        accelerator,
        {"policy": Trained(policy, optimizer)},
        numbers={"best": best},
        tensors={"best": kept},
    )
    model.train()
    with state.continued():
        step = state.done
        for rows in islice(_batches(train, settings, seed=seed), step, None):
            if _out_of_patience(best, settings):
                break
            step += 1
            share = cosine_with_warmup(
                step - 1,
                steps=steps,
                warmup_steps=int(settings.warmup_share * steps),
                final_share=settings.final_learning_rate_share,
            )
            set_learning_rate(optimizer, settings.learning_rate * share)
            taken = optimizer_step(
                accelerator,
                model,
                optimizer,
                micro_batches(own_share(rows, accelerator), settings.micro_batch_size),
                partial(_part, model, train, pad_token_id, accelerator),
                max_grad_norm=settings.max_grad_norm,
            )
            report(
                step,
                {"loss": taken.loss, "grad_norm": taken.grad_norm, "progress": step / steps},
            )
            if (step - 1) % per_epoch + 1 in measured_at:
                loss = validation_loss(
                    model, validation, settings.batch_size, pad_token_id, accelerator
                )
                report(step, {"validation_loss": loss, "epoch": step / per_epoch})
                _note(best, kept, policy, step=step, loss=loss)
            state.step_done(step, is_last=step == steps or _out_of_patience(best, settings))
    if not kept:
        raise TrainingStopped(
            "No validation loss of SFT was finite: lower sft.learning_rate, or look for extreme "
            "rows."
        )
    take_tensors(policy, kept)
    return SftOutcome(
        step, int(best["step"]), best["validation_loss"], _out_of_patience(best, settings)
    )


def _batches(train: Demonstrations, settings: SftSettings, *, seed: int) -> Iterator[list[int]]:
    """The rows of every step, epoch after epoch."""
    lengths = [len(row) for row in train.prompts], [len(row) for row in train.responses]
    for epoch in range(settings.epochs):
        yield from shuffled_batches(*lengths, settings.batch_size, seed=seed, epoch=epoch)


def _note(
    best: dict[str, float],
    kept: dict[str, Tensor],
    policy: PreTrainedModel,
    *,
    step: int,
    loss: float,
) -> None:
    """Keep the weights in `kept` if the loss is the best so far, else count a miss in `best`."""
    if loss < best["validation_loss"]:
        best |= {"step": step, "validation_loss": loss, "misses": 0}
        kept |= {name: weight.clone() for name, weight in trained_tensors(policy).items()}
    else:
        best["misses"] += 1


def _out_of_patience(best: dict[str, float], settings: SftSettings) -> bool:
    return settings.patience is not None and best["misses"] >= settings.patience


def _evaluation_steps(per_epoch: int, settings: SftSettings) -> set[int]:
    times = settings.evaluations_per_epoch
    return {max(1, round(per_epoch * index / times)) for index in range(1, times + 1)}


def _part(
    model: torch.nn.Module,
    train: Demonstrations,
    pad_token_id: int,
    accelerator: Accelerator,
    rows: list[int],
) -> Part:
    batch = train.joined(rows, pad_token_id).to(accelerator.device)
    return Part(sft_loss(model, batch), train.tokens(rows), {})


@torch.no_grad()
def validation_loss(
    model: torch.nn.Module,
    validation: Demonstrations,
    batch_size: int,
    pad_token_id: int,
    accelerator: Accelerator,
) -> float:
    """Mean negative log-likelihood in nats over all response tokens of the validation rows."""
    was_training = model.training
    model.eval()
    rows = sorted(
        range(len(validation.prompts)),
        key=lambda row: (len(validation.prompts[row]), len(validation.responses[row])),
    )
    parts = micro_batches(own_share(rows, accelerator), batch_size)
    part_of = partial(_part, model, validation, pad_token_id, accelerator)
    done = side_by_side(part_of, parts, device=accelerator.device)
    model.train(was_training)
    total = sum(float(part.loss) * part.weight for part in done)
    tokens = sum(part.weight for part in done)
    return summed(accelerator, total) / summed(accelerator, tokens)
