"""Losses: pure functions of tensors, all of them minimized."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from rlhf_core.maths.masking import masked_mean
from rlhf_core.maths.shapes import PerSequence, PerToken, Scalar, TokenMask


class PolicyLoss(NamedTuple):
    """The policy's loss, and how far it moved since the rollout."""

    loss: Scalar
    clip_fraction: Scalar
    approx_kl: Scalar


class ValueLoss(NamedTuple):
    """The value model's loss, and the share of tokens whose clipped error counts."""

    loss: Scalar
    clip_fraction: Scalar


def language_model_loss(logprobs: PerToken, label_mask: TokenMask) -> Scalar:
    """Mean negative log-likelihood in nats of the tokens under the mask."""
    return -masked_mean(logprobs, label_mask)


def bradley_terry_loss(chosen: PerSequence, rejected: PerSequence) -> Scalar:
    """-log sigmoid(chosen - rejected), mean over pairs (arXiv:2203.02155, eq. 1 with K = 2).

    Written as softplus, which stays finite where log(sigmoid) does not (section 2.2).
    """
    return softplus(rejected - chosen).mean()


def kwise_loss(
    scores: PerSequence, ranks: Int[Tensor, "batch"], prompt_index: Int[Tensor, "batch"]
) -> Float[Tensor, "prompts"]:
    """Per prompt, the mean Bradley-Terry loss over its pairs of different rank (eq. 1).

    `scores` [responses] are those of all ranked responses, `ranks` say which is better within a
    prompt (1 is best), and `prompt_index` says which prompt each belongs to, numbered from 0. Ties
    are left out and the divisor is the number of pairs left. With K = 2 it is `bradley_terry_loss`.
    """
    pairs = better_worse_pairs(ranks, prompt_index)
    losses = softplus(scores[pairs.worse] - scores[pairs.better])
    prompts = int(prompt_index.max()) + 1
    zeros = losses.new_zeros(prompts)
    of_pair = prompt_index[pairs.better]
    totals = zeros.index_add(0, of_pair, losses)
    counts = zeros.index_add(0, of_pair, torch.ones_like(losses))
    return totals / counts.clamp(min=1)


class Pairs(NamedTuple):
    """Indices of the responses of each comparison, each [pairs]."""

    better: Int[Tensor, "pairs"]
    worse: Int[Tensor, "pairs"]


def better_worse_pairs(ranks: Int[Tensor, "batch"], prompt_index: Int[Tensor, "batch"]) -> Pairs:
    """Every pair of responses of one prompt in which the first is ranked better."""
    same_prompt = prompt_index.unsqueeze(1) == prompt_index.unsqueeze(0)
    better = ranks.unsqueeze(1) < ranks.unsqueeze(0)
    first, second = torch.nonzero(same_prompt & better, as_tuple=True)
    return Pairs(first, second)


MAX_LOG_RATIO = 20.0
"""Bound on log(new / old), so that exp cannot overflow (detail P22)."""


def ppo_policy_loss(
    logprobs: PerToken,
    old_logprobs: PerToken,
    advantages: PerToken,
    response_mask: TokenMask,
    *,
    clip_range: float,
) -> PolicyLoss:
    """PPO's clipped surrogate, negated so that it is minimized (arXiv:1707.06347, eq. 7).

    Every tensor is [batch, response]; tokens outside `response_mask` count for nothing.
    `old_logprobs` and `advantages` come from the rollout and carry no gradient.
    """
    log_ratio = (logprobs - old_logprobs).masked_fill(~response_mask, 0.0)  # log(new / old)
    log_ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range) * advantages
    loss = -masked_mean(torch.minimum(unclipped, clipped), response_mask)
    with torch.no_grad():
        clip_fraction = masked_mean((clipped < unclipped).float(), response_mask)
        approx_kl = masked_mean(
            log_ratio.expm1() - log_ratio, response_mask
        )  # k3 of KL(old || new)
    return PolicyLoss(loss, clip_fraction, approx_kl)


def reinforce_loss(
    logprobs: PerToken, old_logprobs: PerToken, advantages: PerToken, response_mask: TokenMask
) -> PolicyLoss:
    """-advantage * log-probability, mean over the tokens: REINFORCE, which clips nothing.

    Its gradient is that of `ppo_policy_loss` where `logprobs` are `old_logprobs`. Tensors are those
    of `ppo_policy_loss`.
    """
    loss = -masked_mean(logprobs * advantages, response_mask)
    with torch.no_grad():
        log_ratio = (logprobs - old_logprobs).masked_fill(~response_mask, 0.0)  # log(new / old)
        log_ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        approx_kl = masked_mean(log_ratio.expm1() - log_ratio, response_mask)
    return PolicyLoss(loss, torch.zeros_like(approx_kl), approx_kl)


def ppo_value_loss(
    values: PerToken,
    old_values: PerToken,
    returns: PerToken,
    value_mask: TokenMask,
    *,
    value_clip_range: float,
) -> ValueLoss:
    """Half the larger of the squared errors with and without clipping around the rollout's value.

    0.5 * mean(max((V - R)^2, (V_old + clip(V - V_old) - R)^2)), as in arXiv:1909.08593's code.
    Every tensor is [batch, response]; `old_values` and `returns` carry no gradient.
    """
    values = values.masked_fill(~value_mask, 0.0)
    # Bounds, not old + clip(new - old): within them the value stays itself to the last bit.
    near_old = values.clamp(old_values - value_clip_range, old_values + value_clip_range)
    unclipped = (values - returns).square()
    clipped = (near_old - returns).square()
    loss = 0.5 * masked_mean(torch.maximum(unclipped, clipped), value_mask)
    with torch.no_grad():
        clip_fraction = masked_mean((clipped > unclipped).float(), value_mask)
    return ValueLoss(loss, clip_fraction)
