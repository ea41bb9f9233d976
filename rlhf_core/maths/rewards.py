"""From one score per response to one reward per token."""

from typing import NamedTuple

import torch
from torch import Tensor

from rlhf_core.maths.masking import last_index
from rlhf_core.maths.shapes import PerSequence, PerToken, SequenceMask, TokenMask


class KlEstimates(NamedTuple):
    """Per-token estimates of KL(policy || reference), each [batch, response]."""

    k1: PerToken
    k2: PerToken
    k3: PerToken


def kl_estimates(
    logprobs: PerToken, ref_logprobs: PerToken, response_mask: TokenMask
) -> KlEstimates:
    """Three estimators of KL(policy || reference) from tokens that the policy sampled.

    With d = log(policy / reference): k1 = d is unbiased, k2 = d^2 / 2 is biased and never negative,
    k3 = e^-d - 1 + d is both unbiased and never negative (Schulman's note on approximating KL).
    Entries outside the mask are 0.
    """
    log_ratio = (logprobs - ref_logprobs).masked_fill(~response_mask, 0.0)  # log(policy / ref)
    return KlEstimates(log_ratio, log_ratio.square() / 2, (-log_ratio).expm1() + log_ratio)


def replace_unfinished(
    scores: PerSequence, ended: SequenceMask, *, missing_eos_score: float
) -> PerSequence:
    """Give every response without an end token the same low score (detail P5)."""
    return torch.where(ended, scores, missing_eos_score)


def subtract_from_unfinished(
    scores: PerSequence, ended: SequenceMask, *, missing_eos_penalty: float
) -> PerSequence:
    """Lower the score of every response without an end token by the same amount (detail P6).

    As TRL does; a good unfinished response can still beat a finished one, so it is no default. It
    is subtracted, never multiplied: a factor below 1 would raise a negative score.
    """
    return torch.where(ended, scores, scores - missing_eos_penalty)


def shape_rewards(
    scores: PerSequence, kl: PerToken, response_mask: TokenMask, *, kl_coef: float
) -> PerToken:
    """r[t] = -kl_coef * kl[t], plus the score at each response's last token (convention A).

    Every row sums to score - kl_coef * sum(kl) (InstructGPT, arXiv:2203.02155, eq. 2).
    """
    return _add_at(
        scores, -kl_coef * kl.masked_fill(~response_mask, 0.0), last_index(response_mask)
    )


def shape_rewards_after_end(
    scores: PerSequence, kl: PerToken, response_mask: TokenMask, *, kl_coef: float
) -> PerToken:
    """As `shape_rewards`, with the score one token after the last where there is room.

    Convention B, for comparison with N+ and TRL.
    """
    index = (last_index(response_mask) + 1).clamp(max=response_mask.shape[1] - 1)
    return _add_at(scores, -kl_coef * kl.masked_fill(~response_mask, 0.0), index)


def _add_at(scores: PerSequence, rewards: PerToken, index: Tensor) -> PerToken:
    placed = torch.zeros_like(rewards).scatter(1, index.unsqueeze(1), scores.unsqueeze(1))
    return rewards + placed


def adapted_kl_coef(
    kl_coef: float, kl_to_reference: float, *, kl_target: float, episodes: int, kl_horizon: int
) -> float:
    """The coefficient after one update of Ziegler's controller (arXiv:1909.08593, 2.2).

    beta * (1 + clip(KL / target - 1, -0.2, 0.2) * episodes / horizon); KL is a sum over tokens.
    """
    error = min(max(kl_to_reference / kl_target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * episodes / kl_horizon)
