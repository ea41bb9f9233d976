"""Losses: pure functions of tensors, all of them minimized."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from rlhf_core.maths.masking import masked_mean
from rlhf_core.maths.reductions import Reduce, token_mean
from rlhf_core.maths.shapes import PerSequence, PerToken, Scalar, TokenMask


class PolicyLoss(NamedTuple):
    """The policy's loss, its weight among micro-batches, and how far it moved since the rollout."""

    loss: Scalar
    weight: Scalar
    clip_fraction: Scalar
    dual_clip_fraction: Scalar
    """Share of tokens whose loss the dual clip bounds."""
    extreme_ratio_fraction: Scalar
    """Share of tokens whose log-ratio met its bound; anything but 0 is a fault (P22)."""
    approx_kl: Scalar


class ValueLoss(NamedTuple):
    """The value model's loss, its weight, and the share of tokens whose clipped error counts."""

    loss: Scalar
    weight: Scalar
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
    dual_clip: float | None = None,
    reduce: Reduce = token_mean,
) -> PolicyLoss:
    """PPO's clipped surrogate, negated so that it is minimized (arXiv:1707.06347, eq. 7).

    Every tensor is [batch, response]; tokens outside `response_mask` count for nothing.
    `old_logprobs` and `advantages` come from the rollout and carry no gradient. `dual_clip` bounds
    the loss of a bad token at -dual_clip * advantage, however likely it became (arXiv:1912.09729,
    eq. 5; detail P23).
    """
    free_log_ratio = (logprobs - old_logprobs).masked_fill(~response_mask, 0.0)  # log(new / old)
    log_ratio = free_log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range) * advantages
    surrogate = torch.minimum(unclipped, clipped)
    bounded = surrogate
    if dual_clip is not None:
        least = torch.where(advantages < 0, dual_clip * advantages, -torch.inf)
        bounded = torch.maximum(surrogate, least)
    reduced = reduce(-bounded, response_mask)
    with torch.no_grad():
        return PolicyLoss(
            reduced.mean,
            reduced.weight,
            masked_mean((clipped < unclipped).float(), response_mask),
            masked_mean((bounded > surrogate).float(), response_mask),
            *_moved(free_log_ratio, response_mask),
        )


def reinforce_loss(
    logprobs: PerToken,
    old_logprobs: PerToken,
    advantages: PerToken,
    response_mask: TokenMask,
    *,
    reduce: Reduce = token_mean,
) -> PolicyLoss:
    """-advantage * log-probability of the tokens: REINFORCE, which clips nothing.

    Its gradient is that of `ppo_policy_loss` where `logprobs` are `old_logprobs`. Tensors are those
    of `ppo_policy_loss`.
    """
    reduced = reduce(-logprobs * advantages, response_mask)
    with torch.no_grad():
        free_log_ratio = (logprobs - old_logprobs).masked_fill(~response_mask, 0.0)  # log(new/old)
        moved = _moved(free_log_ratio, response_mask)
    nothing = torch.zeros_like(moved.approx_kl)
    return PolicyLoss(reduced.mean, reduced.weight, nothing, nothing, *moved)


class _Moved(NamedTuple):
    extreme_ratio_fraction: Scalar
    approx_kl: Scalar


def _moved(free_log_ratio: PerToken, response_mask: TokenMask) -> _Moved:
    """How far the policy moved since the rollout, by the k3 estimate of KL(old || new)."""
    log_ratio = free_log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    extreme = (free_log_ratio.abs() > MAX_LOG_RATIO).float()
    return _Moved(
        masked_mean(extreme, response_mask),
        masked_mean(log_ratio.expm1() - log_ratio, response_mask),
    )


def ppo_value_loss(
    values: PerToken,
    old_values: PerToken,
    returns: PerToken,
    value_mask: TokenMask,
    *,
    value_clip_range: float,
    reduce: Reduce = token_mean,
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
    reduced = reduce(torch.maximum(unclipped, clipped), value_mask)
    with torch.no_grad():
        clip_fraction = masked_mean((clipped > unclipped).float(), value_mask)
    return ValueLoss(0.5 * reduced.mean, reduced.weight, clip_fraction)
