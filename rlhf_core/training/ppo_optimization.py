"""The passes over one rollout: the clipped steps of policy and value model.

Steps 15 and 16 of the specification's algorithm (section 3.2).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf_core.batches import SpecialTokens
from rlhf_core.maths.logprobs import taken_logprobs
from rlhf_core.maths.losses import ppo_policy_loss, ppo_value_loss
from rlhf_core.maths.masking import whiten
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.training.optimization import Part, Step, adamw, micro_batches, optimizer_step
from rlhf_core.training.rollouts import Rollout, moments, policy_distribution, values_before


@dataclass(frozen=True)
class Trainable:
    """One network of the two that are trained: its bare, its prepared form and its optimizer."""

    bare: nn.Module
    prepared: nn.Module
    optimizer: torch.optim.Optimizer
    learning_rate: float


def make_trainable(
    accelerator: Accelerator, model: nn.Module, learning_rate: float, settings: PpoSettings
) -> Trainable:
    """`model` prepared by accelerate, with an AdamW of its own."""
    optimizer = adamw(
        model, learning_rate, beta2=settings.adam_beta2, epsilon=settings.adam_epsilon
    )
    prepared, optimizer = accelerator.prepare(model, optimizer)
    prepared.train()
    return Trainable(model, prepared, optimizer, learning_rate)


@dataclass
class Optimization:
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
