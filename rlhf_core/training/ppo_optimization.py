"""The passes over one rollout: the clipped steps of policy and value model.

Steps 15 and 16 of the specification's algorithm (section 3.2).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf_core.batches import SpecialTokens
from rlhf_core.generation import distribution_and_values
from rlhf_core.maths.logprobs import taken_logprobs
from rlhf_core.maths.losses import MAX_LOG_RATIO, ppo_policy_loss, ppo_value_loss, reinforce_loss
from rlhf_core.maths.masking import whiten
from rlhf_core.maths.reductions import REDUCTIONS
from rlhf_core.maths.rewards import kl_estimates
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.training.averaging import WeightAverage
from rlhf_core.training.estimates import moments
from rlhf_core.training.first_bad import Bad
from rlhf_core.training.guard import Guard
from rlhf_core.training.optimization import (
    AddGradients,
    Part,
    Step,
    micro_batches,
    optimizer_step,
    put_epsilon_outside,
)
from rlhf_core.training.ppo_networks import Networks, Trainable
from rlhf_core.training.ptx import TextOfUpdate
from rlhf_core.training.rollouts import Rollout, policy_distribution, values_before

EXTREMES: Mapping[str, Callable[[float, float], float]] = {
    "largest_ratio": max,
    "smallest_ratio": min,
}
"""Metrics whose largest or smallest value over an update counts, where others are averaged."""


def ratio_metrics(log_ratio: Tensor) -> dict[str, float]:
    """What the ratios new / old of some tokens are, bounded as in the loss (detail P22)."""
    error = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).expm1()
    return {
        "approx_kl_k2": float(log_ratio.square().mean() / 2),
        "ratio_error": float(error.abs().mean()),
        "ratio_mean": 1 + float(error.mean()),
        "ratio_square_error": float(error.square().mean()),
        "largest_ratio": 1 + float(error.max()),
        "smallest_ratio": 1 + float(error.min()),
    }


def _of_the_first(metrics: Mapping[str, float]) -> dict[str, float]:
    """What the first mini-batch says of the ratios and the loss, before any step (section 3.10)."""
    if "ratio_error" not in metrics:
        return {"first_ratio_error": 0.0}
    shift = metrics["ratio_mean"] - 1
    return {
        "first_ratio_error": metrics["ratio_error"],
        "first_ratio_mean": metrics["ratio_mean"],
        "first_ratio_variance": max(metrics["ratio_square_error"] - shift * shift, 0.0),
        "first_largest_ratio": metrics["largest_ratio"],
        "first_smallest_ratio": metrics["smallest_ratio"],
        "first_policy_loss": metrics["policy_loss"],
    }


def _distance(before: Sequence[Tensor], network: nn.Module) -> float:
    """Euclidean norm of how far the weights moved."""
    moved = [
        torch.linalg.vector_norm(weight.detach() - old)
        for weight, old in zip(network.parameters(), before, strict=True)
    ]
    return float(torch.linalg.vector_norm(torch.stack(moved)))


@dataclass
class Optimization:
    """The passes over one rollout: steps 15 and 16 of the algorithm."""

    networks: Networks
    rollout: Rollout
    settings: PpoSettings
    special: SpecialTokens
    accelerator: Accelerator
    update: int
    kl_coef: float
    guard: Guard
    prompt_rows: Sequence[int]
    """Which prompt each response of the rollout answers, to name a bad batch by."""
    average: WeightAverage[PreTrainedModel] | None = None
    """Follows each step of the policy."""
    text: TextOfUpdate | None = None
    """Plain text that is learnt beside."""
    _sums: dict[str, float] = field(default_factory=dict)
    _extremes: dict[str, float] = field(default_factory=dict)
    _steps: int = 0

    def run(self, *, seed: int) -> dict[str, float]:
        """Optimize the networks in place; gives the means of the metrics over all steps.

        A step with a number that is not finite is skipped, and where the guard returns to an
        earlier state the rest of the rollout is left out.
        """
        generator = torch.Generator().manual_seed(seed)
        size = self.settings.mini_batch_size // self.accelerator.num_processes
        before = [weight.detach().clone() for weight in self.networks.policy.bare.parameters()]
        first: dict[str, float] = {}
        returned = False
        for _ in range(self.settings.ppo_epochs):
            order = torch.randperm(len(self.rollout), generator=generator)
            for index in torch.split(order, size):
                metrics, bad = self._step(index)
                first = first or _of_the_first(metrics)
                rows = [self.prompt_rows[row] for row in index.tolist()]
                returned = self.guard.judge(self.update + 1, bad, rows)
                if returned:
                    break
            if returned or self._moved_too_far():
                break
        means = {name: total / self._steps for name, total in self._sums.items()}
        moved = {"update_norm": _distance(before, self.networks.policy.bare)}
        return means | self._extremes | moved | first

    def _moved_too_far(self) -> bool:
        limit = self.settings.max_approx_kl
        if limit is None or not self._steps:
            return False
        return self._sums.get("approx_kl", 0.0) / self._steps > limit

    def _step(self, index: Tensor) -> tuple[dict[str, float], Bad | None]:
        """Take one step of each network on the given rows; gives what was measured before it.

        Where a number is not finite, no step that is still to come is taken.
        """
        rows = micro_batches(index.tolist(), self.settings.micro_batch_size)
        parts = [torch.tensor(part, device=index.device) for part in rows]
        metrics: dict[str, float] = {}
        if self.update >= self.settings.value_warmup_updates:
            taken = self._policy_step(parts, self._advantages(index))
            metrics |= self._measured("policy", taken)
            if taken.bad is not None:
                return metrics, taken.bad
        value_model = self.networks.value_model
        if value_model is not None:
            part_of = partial(self._value_part, value_model.prepared)
            taken = self._optimizer_step(value_model, parts, part_of)
            metrics |= self._measured("value", taken)
            if taken.bad is not None:
                return metrics, taken.bad
        self._steps += 1
        for name, value in metrics.items():
            if name in EXTREMES:
                extreme = EXTREMES[name]
                self._extremes[name] = extreme(value, self._extremes.get(name, value))
            else:
                self._sums[name] = self._sums.get(name, 0.0) + value
        return metrics, None

    def _measured(self, network: str, taken: Step) -> dict[str, float]:
        """What a step measured, under the network's name."""
        if taken.bad is None:
            self.guard.see_gradient(network, taken.grad_norm)
        return {
            f"{network}_loss": taken.loss,
            f"{network}_grad_norm": taken.grad_norm,
            f"{network}_clipped_gradients": float(taken.grad_norm > self.settings.max_grad_norm),
            **taken.metrics,
        }

    def _policy_step(self, parts: list[Tensor], advantages: Tensor) -> Step:
        """One step of the policy, and of the value head where both share a trunk."""
        shared = self.settings.value_network == "shared_trunk"
        part_of = partial(self._joint_part if shared else self._policy_part, advantages)
        policy = self.networks.policy
        add_gradients = None
        if self.text is not None:
            reader = self.accelerator.unwrap_model(policy.prepared).policy if shared else None
            add_gradients = partial(
                self.text.add_gradients,
                self.accelerator,
                policy.prepared,
                reader or policy.prepared,
                step=self._steps,
            )
        taken = self._optimizer_step(policy, parts, part_of, add_gradients)
        if self.average is not None and taken.bad is None:
            self.average.follow()
        return taken

    def _optimizer_step(
        self,
        network: Trainable,
        parts: list[Tensor],
        part_of: Callable[[Tensor], Part],
        add_gradients: AddGradients | None = None,
    ) -> Step:
        if self.settings.adam_epsilon_style == "tensorflow":
            put_epsilon_outside(network.optimizer, self.settings.adam_epsilon)
        return optimizer_step(
            self.accelerator,
            network.prepared,
            network.optimizer,
            parts,
            part_of,
            max_grad_norm=self.settings.max_grad_norm,
            add_gradients=add_gradients,
            guard=self.guard,
        )

    def _advantages(self, index: Tensor) -> Tensor:
        """The rollout's advantages, brought to mean 0 and variance 1 over these rows if asked."""
        advantages, mask = self.rollout.advantages, self.rollout.response_mask
        if self.settings.whiten_advantages != "mini_batch":
            return advantages
        mean, variance = moments(advantages[index], mask[index], self.accelerator)
        return whiten(advantages, mask, mean=mean, variance=variance)

    def _policy_part(self, advantages: Tensor, rows: Tensor) -> Part:
        batch = self.rollout.sequences.rows(rows)
        log_probs = policy_distribution(
            self.networks.policy.prepared, batch, self.settings, self.special
        )
        return self._policy_loss(rows, taken_logprobs(log_probs, batch.response_ids), advantages)

    def _joint_part(self, advantages: Tensor, rows: Tensor) -> Part:
        """The policy's loss and `value_coef` times the value head's, from one pass of the trunk."""
        batch = self.rollout.sequences.rows(rows)
        both = distribution_and_values(
            self.networks.policy.prepared,
            batch,
            pad_token_id=self.special.pad,
            temperature=self.settings.temperature,
        )
        logprobs = taken_logprobs(both.log_probs, batch.response_ids)
        policy = self._policy_loss(rows, logprobs, advantages)
        value = self._value_loss(rows, both.values)
        loss = policy.loss + self.settings.value_coef * value.loss
        metrics = policy.metrics | value.metrics | {"value_loss": float(value.loss.detach())}
        return Part(loss, policy.weight, metrics, metric_weight=policy.metric_weight)

    def _policy_loss(self, rows: Tensor, logprobs: Tensor, advantages: Tensor) -> Part:
        rollout, settings = self.rollout, self.settings
        width = logprobs.shape[1]
        mask = rollout.response_mask[rows, :width]
        old_logprobs = rollout.old_logprobs[rows, :width]
        reduce = REDUCTIONS[settings.loss_reduction]
        if settings.surrogate == "reinforce":
            result = reinforce_loss(
                logprobs, old_logprobs, advantages[rows, :width], mask, reduce=reduce
            )
        else:
            result = ppo_policy_loss(
                logprobs,
                old_logprobs,
                advantages[rows, :width],
                mask,
                clip_range=settings.clip_range,
                dual_clip=settings.dual_clip,
                reduce=reduce,
            )
        metrics = {
            "clip_fraction": float(result.clip_fraction),
            "dual_clip_fraction": float(result.dual_clip_fraction),
            "extreme_ratio_fraction": float(result.extreme_ratio_fraction),
            "approx_kl": float(result.approx_kl),
            **ratio_metrics((logprobs.detach() - old_logprobs)[mask]),  # log(new / old)
        }
        loss = result.loss
        if settings.algorithm == "grpo":
            kl = kl_estimates(logprobs, rollout.ref_logprobs[rows, :width], mask).k3
            loss = loss + self.kl_coef * reduce(kl, mask).mean
        return Part(loss, float(result.weight), metrics, metric_weight=float(mask.sum()))

    def _value_part(self, value_model: nn.Module, rows: Tensor) -> Part:
        spare = 1 if self.settings.score_at == "after_eos" else 0
        batch = self.rollout.sequences.rows(rows, spare_columns=spare)
        return self._value_loss(rows, values_before(value_model, batch))

    def _value_loss(self, rows: Tensor, values: Tensor) -> Part:
        rollout, width = self.rollout, values.shape[1]
        value_mask = rollout.value_mask[rows, :width]
        result = ppo_value_loss(
            values,
            rollout.old_values[rows, :width],
            rollout.returns[rows, :width],
            value_mask,
            value_clip_range=self.settings.value_clip_range,
            reduce=REDUCTIONS[self.settings.loss_reduction],
        )
        metrics = {"value_clip_fraction": float(result.clip_fraction)}
        tokens = float(value_mask.sum())
        return Part(result.loss, float(result.weight), metrics, metric_weight=tokens)
