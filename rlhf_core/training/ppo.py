"""PPO: rollouts of the current policy, and the clipped optimization on each of them.

The loop follows the specification's ordered algorithm (section 3.2), from Ziegler et al.
(arXiv:1909.08593), InstructGPT (arXiv:2203.02155) and N+ (arXiv:2403.17031).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf_core.batches import SpecialTokens
from rlhf_core.errors import TrainingStopped
from rlhf_core.maths.logprobs import taken_logprobs
from rlhf_core.maths.losses import ppo_policy_loss, ppo_value_loss
from rlhf_core.maths.masking import whiten
from rlhf_core.maths.rewards import adapted_kl_coef
from rlhf_core.maths.schedules import linear_to_zero, warmup_from_a_tenth
from rlhf_core.report import Report
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.training.optimization import (
    Part,
    Step,
    adamw,
    micro_batches,
    optimizer_step,
    set_learning_rate,
    summed,
)
from rlhf_core.training.ppo_metrics import rollout_metrics
from rlhf_core.training.rollouts import (
    PpoModels,
    Rollout,
    collect_rollout,
    moments,
    policy_distribution,
    values_before,
)
from rlhf_core.training.state import Saving, TrainingState
from rlhf_core.training.trained import Trained


@dataclass(frozen=True)
class Trainable:
    """One network of the two that are trained: its bare, its prepared form and its optimizer."""

    bare: nn.Module
    prepared: nn.Module
    optimizer: torch.optim.Optimizer
    learning_rate: float


def train_ppo(
    models: PpoModels,
    prompts: Sequence[Sequence[int]],
    settings: PpoSettings,
    report: Report,
    *,
    special: SpecialTokens,
    max_response_tokens: int,
    missing_eos_score: float,
    seed: int,
    accelerator: Accelerator,
    saving: Saving | None = None,
) -> dict[str, float]:
    """Raise the reward of `models.policy` in place, and fit `models.value_model` to its returns.

    Gives the last update's metrics. Raises TrainingStopped where a number stops being finite or the
    KL to the reference passes `max_kl_to_reference`.
    """
    policy = _trainable(accelerator, models.policy, settings.learning_rate, settings)
    value_rate = settings.value_learning_rate or settings.learning_rate
    value_model = _trainable(accelerator, models.value_model, value_rate, settings)
    batches = prompt_batches(len(prompts), settings.rollout_batch_size, seed=seed)
    controller = {"kl_coef": settings.kl_coef}
    metrics: dict[str, float] = {}
    state = TrainingState(
        saving,
        accelerator,
        {
            "policy": Trained(policy.bare, policy.optimizer),
            "value_model": Trained(value_model.bare, value_model.optimizer),
        },
        numbers={"controller": controller, "metrics": metrics},
        frozen={"reference": models.reference, "reward_model": models.reward_model},
    )
    with state.continued():
        for update, batch in islice(enumerate(batches), state.done, settings.updates):
            kl_coef = controller["kl_coef"]
            started = time.monotonic()
            rows = batch[accelerator.process_index :: accelerator.num_processes]
            rollout = collect_rollout(
                models,
                [prompts[row] for row in rows],
                settings,
                special=special,
                max_response_tokens=max_response_tokens,
                kl_coef=kl_coef,
                missing_eos_score=missing_eos_score,
                seed=_seed(seed, update, accelerator.process_index),
                accelerator=accelerator,
            )
            metrics.clear()
            metrics |= rollout_metrics(rollout, kl_coef=kl_coef, accelerator=accelerator)
            _check_kl(metrics["kl_to_reference"], update + 1, settings)
            share = learning_rate_share(update, settings)
            set_learning_rate(policy.optimizer, policy.learning_rate * share)
            set_learning_rate(value_model.optimizer, value_model.learning_rate * share)
            optimization = _Optimization(
                policy, value_model, rollout, settings, special, accelerator, update
            )
            metrics |= optimization.run(seed=_seed(seed, update, settings.updates))
            metrics["progress"] = (update + 1) / settings.updates
            metrics["learning_rate"] = policy.learning_rate * share
            tokens = summed(accelerator, float(rollout.response_mask.sum()))
            speed = {"tokens_per_second": tokens / (time.monotonic() - started)}
            report(update + 1, metrics | speed)
            _adapt(controller, metrics["kl_to_reference"], settings)
            state.step_done(update + 1, is_last=update + 1 == settings.updates)
    return metrics


def _adapt(controller: dict[str, float], kl_to_reference: float, settings: PpoSettings) -> None:
    """Bring the controller's `kl_coef` nearer to the one that keeps the KL at its target."""
    if settings.kl_target is not None:
        controller["kl_coef"] = adapted_kl_coef(
            controller["kl_coef"],
            kl_to_reference,
            kl_target=settings.kl_target,
            episodes=settings.rollout_batch_size,
            kl_horizon=settings.kl_horizon,
        )


def _trainable(
    accelerator: Accelerator, model: nn.Module, learning_rate: float, settings: PpoSettings
) -> Trainable:
    optimizer = adamw(
        model, learning_rate, beta2=settings.adam_beta2, epsilon=settings.adam_epsilon
    )
    prepared, optimizer = accelerator.prepare(model, optimizer)
    prepared.train()
    return Trainable(model, prepared, optimizer, learning_rate)


def _seed(seed: int, update: int, stream: int) -> int:
    """A seed of its own for every update and process: no rollout repeats another's draws (P28)."""
    return (seed * 1_000_003 + update) * 1_009 + stream


def prompt_batches(prompts: int, batch_size: int, *, seed: int) -> Iterator[list[int]]:
    """Rows of each rollout's prompts, for ever: a new order for every pass over the prompts.

    A batch that a pass cannot fill goes on with the next pass.
    """
    epoch, pending = 0, list[int]()
    while True:
        while len(pending) < batch_size:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            pending += torch.randperm(prompts, generator=generator).tolist()
            epoch += 1
        yield pending[:batch_size]
        pending = pending[batch_size:]


def learning_rate_share(update: int, settings: PpoSettings) -> float:
    """Share of the peak learning rate at `update`, counted from 0."""
    share = warmup_from_a_tenth(update, warmup_updates=settings.warmup_updates)
    if settings.learning_rate_schedule == "linear":
        share *= linear_to_zero(update, updates=settings.updates)
    return share


def _check_kl(kl_to_reference: float, update: int, settings: PpoSettings) -> None:
    limit = settings.max_kl_to_reference
    if limit is not None and not kl_to_reference <= limit:
        raise TrainingStopped(
            f"PPO stopped at update {update}: the policy is {kl_to_reference:.1f} nats a response "
            f"away from the reference, over max_kl_to_reference={limit:g}, where the reward model "
            "can no longer be believed. Raise ppo.kl_coef or lower ppo.learning_rate."
        )


@dataclass
class _Optimization:
    """The passes over one rollout: steps 15 and 16 of the algorithm."""

    policy: Trainable
    value_model: Trainable
    rollout: Rollout
    settings: PpoSettings
    special: SpecialTokens
    accelerator: Accelerator
    update: int
    _sums: dict[str, float] = field(default_factory=dict)
    _steps: int = 0

    def run(self, *, seed: int) -> dict[str, float]:
        """Optimize both networks in place; gives the means of the metrics over all steps."""
        generator = torch.Generator().manual_seed(seed)
        size = self.settings.mini_batch_size // self.accelerator.num_processes
        first: dict[str, float] = {}
        for _ in range(self.settings.ppo_epochs):
            order = torch.randperm(len(self.rollout), generator=generator)
            for index in torch.split(order, size):
                metrics = self._step(index)
                first = first or {"first_ratio_error": metrics.get("ratio_error", 0.0)}
            if self._moved_too_far():
                break
        means = {name: total / self._steps for name, total in self._sums.items()}
        return means | first

    def _moved_too_far(self) -> bool:
        limit = self.settings.max_approx_kl
        return limit is not None and self._sums.get("approx_kl", 0.0) / self._steps > limit

    def _step(self, index: Tensor) -> dict[str, float]:
        """Take one step of each network on the given rows; gives what was measured before it."""
        rows = micro_batches(index.tolist(), self.settings.micro_batch_size)
        parts = [torch.tensor(part, device=index.device) for part in rows]
        metrics: dict[str, float] = {}
        if self.update >= self.settings.value_warmup_updates:
            advantages = self._advantages(index)
            taken = self._optimizer_step(
                self.policy, parts, lambda part: self._policy_part(part, advantages)
            )
            metrics |= {"policy_loss": taken.loss, "policy_grad_norm": taken.grad_norm}
            metrics |= taken.metrics
        taken = self._optimizer_step(self.value_model, parts, self._value_part)
        metrics |= {"value_loss": taken.loss, "value_grad_norm": taken.grad_norm}
        metrics |= taken.metrics
        self._steps += 1
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        return metrics

    def _optimizer_step(
        self, network: Trainable, parts: list[Tensor], part_of: Callable[[Tensor], Part]
    ) -> Step:
        return optimizer_step(
            self.accelerator,
            network.prepared,
            network.optimizer,
            parts,
            part_of,
            max_grad_norm=self.settings.max_grad_norm,
        )

    def _advantages(self, index: Tensor) -> Tensor:
        """The rollout's advantages, brought to mean 0 and variance 1 over these rows if asked."""
        advantages, mask = self.rollout.advantages, self.rollout.response_mask
        if self.settings.whiten_advantages != "mini_batch":
            return advantages
        mean, variance = moments(advantages[index], mask[index], self.accelerator)
        return whiten(advantages, mask, mean=mean, variance=variance)

    def _policy_part(self, rows: Tensor, advantages: Tensor) -> Part:
        rollout, settings = self.rollout, self.settings
        batch = rollout.sequences.rows(rows)
        width = batch.response_ids.shape[1]
        log_probs = policy_distribution(self.policy.prepared, batch, settings, self.special)
        logprobs = taken_logprobs(log_probs, batch.response_ids)
        old_logprobs = rollout.old_logprobs[rows, :width]
        result = ppo_policy_loss(
            logprobs,
            old_logprobs,
            advantages[rows, :width],
            batch.response_mask,
            clip_range=settings.clip_range,
        )
        log_ratio = logprobs.detach() - old_logprobs  # log(new / old)
        return Part(
            result.loss,
            float(batch.response_mask.sum()),
            {
                "clip_fraction": float(result.clip_fraction),
                "approx_kl": float(result.approx_kl),
                "ratio_error": float(log_ratio[batch.response_mask].expm1().abs().mean()),
            },
        )

    def _value_part(self, rows: Tensor) -> Part:
        rollout = self.rollout
        spare = 1 if self.settings.score_at == "after_eos" else 0
        batch = rollout.sequences.rows(rows, spare_columns=spare)
        width = batch.response_ids.shape[1]
        value_mask = rollout.value_mask[rows, :width]
        result = ppo_value_loss(
            values_before(self.value_model.prepared, batch),
            rollout.old_values[rows, :width],
            rollout.returns[rows, :width],
            value_mask,
            value_clip_range=self.settings.value_clip_range,
        )
        metrics = {"value_clip_fraction": float(result.clip_fraction)}
        return Part(result.loss, float(value_mask.sum()), metrics)
