"""Advantage estimation."""

from typing import NamedTuple

import torch

from rlhf_core.maths.masking import masked_variance
from rlhf_core.maths.shapes import PerSequence, PerToken, Scalar, TokenMask


class Gae(NamedTuple):
    """What GAE estimates, each [batch, response]; both 0 outside the mask."""

    advantages: PerToken
    returns: PerToken


def gae(
    rewards: PerToken, values: PerToken, value_mask: TokenMask, *, gamma: float, gae_lambda: float
) -> Gae:
    """Generalized advantage estimation (arXiv:1506.02438, eq. 16), backwards over the tokens.

    delta_t = r_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lambda A_{t+1};  returns = A + V.
    The value after the last token is 0: reaching the length limit is an end too (section 3.4).
    """
    rewards = rewards.masked_fill(~value_mask, 0.0)
    values = values.masked_fill(~value_mask, 0.0)
    advantage = next_value = torch.zeros_like(values[:, 0])
    backwards = []
    for reward, value in zip(reversed(rewards.unbind(1)), reversed(values.unbind(1)), strict=True):
        delta = reward + gamma * next_value - value
        advantage = delta + gamma * gae_lambda * advantage
        next_value = value
        backwards.append(advantage)
    advantages = torch.stack(backwards[::-1], dim=1).masked_fill(~value_mask, 0.0)
    return Gae(advantages, advantages + values)


class GroupAdvantages(NamedTuple):
    """What a response is worth beside the other responses to its prompt, each [batch]."""

    advantages: PerSequence
    baselines: PerSequence
    """What the reward was compared with."""


def leave_one_out(rewards: PerSequence, *, group_size: int) -> GroupAdvantages:
    """A_i = R_i - mean of the other rewards of its group (RLOO, arXiv:2402.14740, eq. 8).

    Neighbours in the batch form the groups. The baseline does not depend on the response that it is
    for, so the gradient stays unbiased.
    """
    groups = rewards.reshape(-1, group_size)
    others = (groups.sum(dim=1, keepdim=True) - groups) / (group_size - 1)
    return GroupAdvantages((groups - others).flatten(), others.flatten())


def group_centred(rewards: PerSequence, *, group_size: int) -> GroupAdvantages:
    """A_i = R_i - mean of its group ("Dr. GRPO", arXiv:2503.20783, section 3.2).

    Neighbours in the batch form the groups.
    """
    groups = rewards.reshape(-1, group_size)
    means = groups.mean(dim=1, keepdim=True).expand_as(groups)
    return GroupAdvantages((groups - means).flatten(), means.flatten())


def group_standardized(rewards: PerSequence, *, group_size: int) -> GroupAdvantages:
    """A_i = (R_i - mean of its group) / deviation of its group (GRPO, arXiv:2402.03300, 4.1.2).

    The deviation is the unbiased one (divided by n - 1), as in TRL and verl; a group of equal
    rewards has no advantage. Neighbours in the batch form the groups.
    """
    centred = group_centred(rewards, group_size=group_size)
    deviations = rewards.reshape(-1, group_size).std(dim=1, correction=1)
    scale = deviations.clamp(min=SMALLEST_DEVIATION).repeat_interleave(group_size)
    return GroupAdvantages(centred.advantages / scale, centred.baselines)


SMALLEST_DEVIATION = 1e-4
"""Below it the rewards of a group differ by rounding only."""


def explained_variance(values: PerToken, returns: PerToken, value_mask: TokenMask) -> Scalar:
    """1 - var(returns - values) / var(returns): 1 is a perfect critic, below 0 worse than none.

    NaN where the returns do not vary.
    """
    variance = masked_variance(returns, value_mask)
    unexplained = masked_variance(returns - values, value_mask)
    return torch.where(variance > 0, 1 - unexplained / variance, torch.nan)
