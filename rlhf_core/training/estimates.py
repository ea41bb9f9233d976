"""From the scores of a rollout to the advantage of every token: steps 11 to 14 of the algorithm.

With a value model by generalized advantage estimation, without one by comparing a response with the
others to its prompt. Every tensor is `[batch, response]` unless it says otherwise.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf_core.maths.advantages import gae, group_centred, group_standardized, leave_one_out
from rlhf_core.maths.masking import rescale, value_mask_after_end, whiten
from rlhf_core.maths.rewards import shape_rewards, shape_rewards_after_end
from rlhf_core.maths.shapes import Scalar
from rlhf_core.settings.ppo import PpoSettings

Baseline = Literal["value_model", "group"]
"""What a return is compared with: values, or the other responses to the prompt."""


@dataclass(frozen=True)
class Estimates:
    """What follows from the scores for every token, named as in `Rollout`."""

    rewards: Tensor
    baseline: Baseline
    old_values: Tensor
    value_mask: Tensor
    advantages: Tensor
    returns: Tensor


def token_estimates(
    scores: Tensor,
    kl: Tensor,
    values: Tensor,
    response_mask: Tensor,
    settings: PpoSettings,
    *,
    kl_coef: float,
    accelerator: Accelerator,
) -> Estimates:
    """Rewards per token and generalized advantages, which the value model's `values` allow."""
    place = shape_rewards if settings.score_at == "eos" else shape_rewards_after_end
    rewards = place(scores, kl, response_mask, kl_coef=kl_coef)
    value_mask = response_mask
    if settings.score_at == "after_eos":
        value_mask = value_mask_after_end(value_mask)
    if settings.whiten_rewards:
        mean, variance = moments(rewards, value_mask, accelerator)
        rewards = rescale(rewards, value_mask, mean=mean, variance=variance)
    estimates = gae(
        rewards, values, value_mask, gamma=settings.gamma, gae_lambda=settings.gae_lambda
    )
    advantages = estimates.advantages.masked_fill(~response_mask, 0.0)
    if settings.whiten_advantages == "rollout":
        mean, variance = moments(advantages, response_mask, accelerator)
        advantages = whiten(advantages, response_mask, mean=mean, variance=variance)
    return Estimates(
        rewards,
        "value_model",
        values.masked_fill(~value_mask, 0.0),
        value_mask,
        advantages,
        estimates.returns,
    )


def group_estimates(
    scores: Tensor, kl: Tensor, response_mask: Tensor, settings: PpoSettings, *, kl_coef: float
) -> Estimates:
    """Every token of a response gets the advantage of the whole over its group.

    The KL is part of the reward in RLOO, and of the loss in GRPO.
    """
    rewards = shape_rewards(
        scores, kl, response_mask, kl_coef=kl_coef if settings.algorithm == "rloo" else 0.0
    )
    of_responses = rewards.sum(dim=1)
    if settings.algorithm == "rloo":
        compared_by = leave_one_out
    elif settings.algorithm == "grpo" and settings.divide_by_group_deviation:
        compared_by = group_standardized
    else:
        compared_by = group_centred
    compared = compared_by(of_responses, group_size=settings.responses_per_prompt)

    def at_every_token(per_response: Tensor) -> Tensor:
        return per_response.unsqueeze(1).expand_as(rewards).masked_fill(~response_mask, 0.0)

    return Estimates(
        rewards,
        "group",
        at_every_token(compared.baselines),
        response_mask,
        at_every_token(compared.advantages),
        at_every_token(of_responses),
    )


def moments(values: Tensor, mask: Tensor, accelerator: Accelerator) -> tuple[Scalar, Scalar]:
    """Mean and biased variance over the tokens that count, of all processes (section 3.6)."""
    kept = values.masked_fill(~mask, 0.0)
    sums = torch.stack([kept.sum(), mask.sum().to(kept)])
    total, count = accelerator.reduce(sums, "sum")
    mean = total / count
    squares = (values - mean).square().masked_fill(~mask, 0.0).sum()
    return mean, accelerator.reduce(squares, "sum") / count
