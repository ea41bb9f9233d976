"""Supervised fine-tuning: the policy learns to continue prompts as the demonstrations do."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from rlhf_core.batches import shuffled_batches
from rlhf_core.maths.schedules import (
    constant_with_warmup,
    cosine_with_warmup,
    linear_with_warmup,
)
from rlhf_core.report import Report
from rlhf_core.settings.sft import SftSettings
from rlhf_core.threads import side_by_side
from rlhf_core.training.demonstrations import Demonstrations
from rlhf_core.training.optimization import (
    adamw,
    micro_batches,
    optimizer_step,
    own_share,
    set_learning_rate,
    summed,
)
from rlhf_core.training.residual_dropout import residual_dropout
from rlhf_core.training.sft_course import (
    EpochSampler,
    SftCourse,
    SftOutcome,
    evaluation_steps,
)
from rlhf_core.training.sft_loss import Targets, check_packing
from rlhf_core.training.state import Saving, TrainingState
from rlhf_core.training.supervised_guard import SupervisedGuard
from rlhf_core.training.trained import Trained

SCHEDULES = {"cosine": cosine_with_warmup, "linear": linear_with_warmup}
"""Schedules that end at a share of the peak, by their name in the settings."""


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
    sampler: EpochSampler | None = None,
    notice: Callable[[str], None] = lambda _: None,
) -> SftOutcome:
    """Teach `policy` the demonstrations in place; the weights that `selection` names remain.

    Gradients are means over the targets of the whole batch, whatever the micro-batches (AGG).
    `notice` is told of over-fitting, of samples that repeat themselves or do not end, and of what
    the guard sees.
    """
    if settings.loss_on == "all":
        train, validation = train.with_loss_on_prompts(), validation.with_loss_on_prompts()
    if settings.packing:
        check_packing(policy, train, pad_token_id)
    per_epoch = -(-len(train.prompts) // settings.batch_size)
    steps = per_epoch * settings.epochs
    optimizer = adamw(policy, settings.learning_rate, weight_decay=settings.weight_decay)
    model, optimizer = accelerator.prepare(policy, optimizer)
    measured_at = evaluation_steps(per_epoch, settings)
    course = SftCourse(settings, per_epoch, notice)
    trained = {"policy": Trained(policy, optimizer)}
    guard = SupervisedGuard("sft", settings.sentinel, trained, notice=notice)
    state = TrainingState(
        saving,
        accelerator,
        trained,
        numbers={**course.numbers, "guard": guard.numbers},
        tensors={**course.tensors, **guard.tensors},
    )
    targets = Targets(train, pad_token_id, accelerator.device, packing=settings.packing)
    model.train()
    with residual_dropout(policy, settings.dropout), state.continued(steps=steps):
        guard.keep_first()
        step = state.done
        for rows in islice(_batches(train, settings, seed=seed), step, None):
            if course.out_of_patience:
                break
            step += 1
            rate = settings.learning_rate * _share_of_peak(settings, step, steps)
            set_learning_rate(optimizer, rate * guard.rate_share)
            taken = optimizer_step(
                accelerator,
                model,
                optimizer,
                micro_batches(own_share(rows, accelerator), settings.micro_batch_size),
                partial(targets.part, model),
                max_grad_norm=settings.max_grad_norm,
                guard=guard,
            )
            measured = {"loss": taken.loss, "grad_norm": taken.grad_norm}
            report(step, measured | {"progress": step / steps})
            guard.see(step, measured, taken.bad, rows=rows)
            if (step - 1) % per_epoch + 1 in measured_at:
                loss = validation_loss(
                    model,
                    validation,
                    settings.batch_size,
                    pad_token_id,
                    accelerator,
                    packing=settings.packing,
                )
                report(step, {"validation_loss": loss, "epoch": step / per_epoch})
                course.evaluated(policy, step=step, loss=loss)
            if step % per_epoch == 0:
                found = course.epoch_ended(policy, step // per_epoch, sampler, seed=seed)
                if found:
                    report(step, {f"sample_{name}": value for name, value in found.items()})
            guard.step_done(step)
            state.step_done(step, is_last=step == steps or course.out_of_patience)
    guard.finish_at(step, report)
    return course.finished(policy, step=step)


def _share_of_peak(settings: SftSettings, step: int, steps: int) -> float:
    warmup_steps = int(settings.warmup_share * steps)
    if settings.schedule == "constant":
        return constant_with_warmup(step - 1, warmup_steps=warmup_steps)
    return SCHEDULES[settings.schedule](
        step - 1,
        steps=steps,
        warmup_steps=warmup_steps,
        final_share=settings.final_learning_rate_share,
    )


def _batches(train: Demonstrations, settings: SftSettings, *, seed: int) -> Iterator[list[int]]:
    """The rows of every step, epoch after epoch."""
    lengths = [len(row) for row in train.prompts], [len(row) for row in train.responses]
    for epoch in range(settings.epochs):
        yield from shuffled_batches(*lengths, settings.batch_size, seed=seed, epoch=epoch)


@torch.no_grad()
def validation_loss(
    model: torch.nn.Module,
    validation: Demonstrations,
    batch_size: int,
    pad_token_id: int,
    accelerator: Accelerator,
    *,
    packing: bool = False,
) -> float:
    """Mean negative log-likelihood in nats over all targets of the validation rows."""
    was_training = model.training
    model.eval()
    rows = sorted(
        range(len(validation.prompts)),
        key=lambda row: (len(validation.prompts[row]), len(validation.responses[row])),
    )
    parts = micro_batches(own_share(rows, accelerator), batch_size)
    targets = Targets(validation, pad_token_id, accelerator.device, packing=packing)
    done = side_by_side(partial(targets.part, model), parts, device=accelerator.device)
    model.train(was_training)
    total = sum(float(part.loss) * part.weight for part in done)
    tokens = sum(part.weight for part in done)
    return summed(accelerator, total) / summed(accelerator, tokens)
