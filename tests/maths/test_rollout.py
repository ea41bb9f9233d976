"""Three responses from tokens to whitened advantages, in both conventions of the score's place.

The first ends early, the second ends in the last column, the third does not end.
"""

from functools import partial

import torch
from torch.testing import assert_close

from rlhf_core.maths.advantages import gae
from rlhf_core.maths.masking import (
    has_ended,
    masked_mean,
    masked_variance,
    rescale,
    until_end,
    value_mask_after_end,
    whiten,
)
from rlhf_core.maths.rewards import (
    kl_estimates,
    replace_unfinished,
    shape_rewards,
    shape_rewards_after_end,
)

close_to_vector = partial(assert_close, atol=2e-6, rtol=0)  # the vectors have six decimals

RESPONSE_IDS = torch.tensor([[4, 5, 1, 6, 7], [4, 5, 6, 7, 1], [4, 5, 6, 7, 8]])
EOS_IDS = torch.tensor([1])
LOGPROBS = torch.tensor([[-1, -2, -0.5, -3, -3], [-1] * 5, [-2] * 5])
REF_LOGPROBS = torch.tensor(
    [[-1.2, -1.8, -0.7, -1, -1], [-1.1, -0.9, -1, -1.3, -0.8], [-2.5, -1.5, -2, -2, -2]]
)
VALUES = torch.tensor(
    [[0.1, 0.2, 0.3, 0.4, 0.5], [0, 0.1, 0.2, 0.3, 0.4], [-0.1, -0.2, -0.3, -0.4, -0.5]]
)
RAW_SCORES = torch.tensor([1.5, 0.7, 2.0])
KL_COEF = 0.05

RESPONSE_MASK = until_end(RESPONSE_IDS, EOS_IDS)
SCORES = replace_unfinished(
    RAW_SCORES, has_ended(RESPONSE_IDS, EOS_IDS, RESPONSE_MASK), missing_eos_score=-1.0
)
KL = kl_estimates(LOGPROBS, REF_LOGPROBS, RESPONSE_MASK).k1


def _whitened(advantages):
    mean = masked_mean(advantages, RESPONSE_MASK)
    variance = masked_variance(advantages, RESPONSE_MASK)
    return whiten(advantages, RESPONSE_MASK, mean=mean, variance=variance)


def test_a_response_that_does_not_end_is_scored_as_unfinished():
    assert SCORES.tolist() == torch.tensor([1.5, 0.7, -1.0]).tolist()


def test_rewards_are_the_kl_penalty_and_the_score_at_the_last_token():
    rewards = shape_rewards(SCORES, KL, RESPONSE_MASK, kl_coef=KL_COEF)
    # row 0: -0.05 * (-1 + 1.2), -0.05 * (-2 + 1.8), 1.5 - 0.05 * (-0.5 + 0.7)
    expected = [
        [-0.01, 0.01, 1.49, 0, 0],
        [-0.005, 0.005, 0, -0.015, 0.71],
        [-0.025, 0.025, 0, 0, -1],
    ]
    close_to_vector(rewards, torch.tensor(expected))
    # score - 0.05 * KL with KL = 0.2, 0.1 and 0
    close_to_vector(rewards.sum(dim=1), torch.tensor([1.49, 0.695, -1.0]))


def test_advantages_and_returns_with_the_score_at_the_last_token():
    rewards = shape_rewards(SCORES, KL, RESPONSE_MASK, kl_coef=KL_COEF)
    estimates = gae(rewards, VALUES, RESPONSE_MASK, gamma=1.0, gae_lambda=0.95)
    returns = [
        [1.368475, 1.4405, 1.49, 0, 0],
        [0.610374, 0.642499, 0.660525, 0.6795, 0.71],
        [-0.879491, -0.888937, -0.94625, -0.975, -1],
    ]
    advantages = [
        [1.268475, 1.2405, 1.19, 0, 0],  # 1.49 - 0.3; 0.01 + 0.1 + 0.95 * 1.19; ...
        [0.610374, 0.542499, 0.460525, 0.3795, 0.31],
        [-0.779491, -0.688937, -0.64625, -0.575, -0.5],
    ]
    whitened = [
        [1.418207, 1.380499, 1.312429, 0, 0],
        [0.531145, 0.439656, 0.329163, 0.219948, 0.126269],
        [-1.342267, -1.220209, -1.16267, -1.066632, -0.965538],
    ]
    close_to_vector(estimates.returns, torch.tensor(returns))
    close_to_vector(estimates.advantages, torch.tensor(advantages))
    close_to_vector(_whitened(estimates.advantages), torch.tensor(whitened))


def test_whitening_by_the_unbiased_variance_is_distinguishable():
    rewards = shape_rewards(SCORES, KL, RESPONSE_MASK, kl_coef=KL_COEF)
    advantages = gae(rewards, VALUES, RESPONSE_MASK, gamma=1.0, gae_lambda=0.95).advantages
    variance = masked_variance(advantages, RESPONSE_MASK) * 13 / 12  # 13 tokens count
    whitened = whiten(
        advantages,
        RESPONSE_MASK,
        mean=masked_mean(advantages, RESPONSE_MASK),
        variance=variance,
    )
    expected = [
        [1.362569, 1.32634, 1.260941, 0, 0],
        [0.510308, 0.422408, 0.316249, 0.21132, 0.121315],
        [-1.289608, -1.172339, -1.117057, -1.024787, -0.927659],
    ]
    close_to_vector(whitened, torch.tensor(expected))


REWARDS_AFTER_END = torch.tensor(
    [[-0.01, 0.01, -0.01, 1.5, 0], [-0.005, 0.005, 0, -0.015, 0.71], [-0.025, 0.025, 0, 0, -1]]
)


def test_in_convention_b_rewards_have_the_score_one_later():
    rewards = shape_rewards_after_end(SCORES, KL, RESPONSE_MASK, kl_coef=KL_COEF)
    close_to_vector(rewards, REWARDS_AFTER_END)
    close_to_vector(rewards.sum(dim=1), torch.tensor([1.49, 0.695, -1.0]))


def test_advantages_and_returns_with_the_score_after_the_last_token():
    value_mask = value_mask_after_end(RESPONSE_MASK)
    estimates = gae(REWARDS_AFTER_END, VALUES, value_mask, gamma=1.0, gae_lambda=0.95)
    advantages = estimates.advantages.masked_fill(~RESPONSE_MASK, 0.0)
    returns = [
        [1.318838, 1.38825, 1.435, 1.5, 0],  # the state after the end is regressed on the score
        [0.610374, 0.642499, 0.660525, 0.6795, 0.71],
        [-0.879491, -0.888937, -0.94625, -0.975, -1],
    ]
    raw = [
        [1.218838, 1.18825, 1.135, 0, 0],  # A_2 = -0.01 + 0.4 - 0.3 + 0.95 * (1.5 - 0.4) = 1.135
        [0.610374, 0.542499, 0.460525, 0.3795, 0.31],
        [-0.779491, -0.688937, -0.64625, -0.575, -0.5],
    ]
    whitened = [
        [1.398421, 1.356262, 1.282866, 0, 0],
        [0.559763, 0.466209, 0.353223, 0.241545, 0.145751],
        [-1.355916, -1.231105, -1.172268, -1.074063, -0.970689],
    ]
    close_to_vector(estimates.returns, torch.tensor(returns))
    close_to_vector(advantages, torch.tensor(raw))
    close_to_vector(_whitened(advantages), torch.tensor(whitened))


def test_the_conventions_differ_at_the_end_token_by_what_the_value_behind_it_lacks():
    rewards = shape_rewards(SCORES, KL, RESPONSE_MASK, kl_coef=KL_COEF)
    value_mask = value_mask_after_end(RESPONSE_MASK)
    at_end = gae(rewards, VALUES, RESPONSE_MASK, gamma=1.0, gae_lambda=0.95)
    after_end = gae(REWARDS_AFTER_END, VALUES, value_mask, gamma=1.0, gae_lambda=0.95)
    # (1 - lambda) * (V_3 - score) = 0.05 * (0.4 - 1.5)
    difference = after_end.advantages[0, 2] - at_end.advantages[0, 2]
    close_to_vector(difference, torch.tensor(-0.055))


def test_the_conventions_agree_on_every_real_token_at_lambda_1():
    rewards = shape_rewards(SCORES, KL, RESPONSE_MASK, kl_coef=KL_COEF)
    value_mask = value_mask_after_end(RESPONSE_MASK)
    at_end = gae(rewards, VALUES, RESPONSE_MASK, gamma=1.0, gae_lambda=1.0)
    after_end = gae(REWARDS_AFTER_END, VALUES, value_mask, gamma=1.0, gae_lambda=1.0)
    close_to_vector(after_end.advantages[RESPONSE_MASK], at_end.advantages[RESPONSE_MASK])


def test_rewards_are_rescaled_over_the_mask_of_the_values():
    mask = value_mask_after_end(RESPONSE_MASK)
    mean = masked_mean(REWARDS_AFTER_END, mask)
    variance = masked_variance(REWARDS_AFTER_END, mask)
    rescaled = rescale(REWARDS_AFTER_END, mask, mean=mean, variance=variance)
    close_to_vector(rescaled[0], torch.tensor([-0.100570, -0.061431, -0.100570, 2.854449, 0]))
    close_to_vector(rescaled[1:, -1], torch.tensor([1.308446, -2.037966]))
