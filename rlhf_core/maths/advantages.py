"""Advantage estimation."""

from typing import NamedTuple

import torch

from rlhf_core.maths.masking import masked_variance
from rlhf_core.maths.shapes import PerToken, Scalar, TokenMask


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


def explained_variance(values: PerToken, returns: PerToken, value_mask: TokenMask) -> Scalar:
    """1 - var(returns - values) / var(returns): 1 is a perfect critic, below 0 worse than none.

    NaN where the returns do not vary.
    """
    variance = masked_variance(returns, value_mask)
    unexplained = masked_variance(returns - values, value_mask)
    return torch.where(variance > 0, 1 - unexplained / variance, torch.nan)
