"""GAE against published vectors, and against the sums that it is short for."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from rlhf_core.maths.advantages import (
    explained_variance,
    gae,
    group_centred,
    group_standardized,
    leave_one_out,
)
from rlhf_core.maths.masking import masked_mean, masked_variance, whiten

close_to_vector = partial(assert_close, atol=2e-6, rtol=0)  # the vectors have six decimals
close = partial(assert_close, atol=1e-5, rtol=1e-5)  # sums of a few float32 numbers near 1

REWARDS = torch.tensor([[-0.01, 0.02, 1.0]])
VALUES = torch.tensor([[0.5, 0.6, 0.7]])
ALL = torch.ones(1, 3).bool()


# With gamma = 1, lambda = 1: A_0 = (-0.01 + 0.02 + 1) - 0.5 = 0.51.
# With gamma = 1, lambda = 0: A_0 = -0.01 + 0.6 - 0.5 = 0.09.
# With gamma = 0.9, lambda = 0.8: A_2 = 1 - 0.7 = 0.3, and 0.72 is what A is discounted by, so
# A_1 = 0.02 + 0.63 - 0.6 + 0.72 * 0.3 = 0.266 and A_0 = -0.01 + 0.54 - 0.5 + 0.72 * 0.266.
@pytest.mark.parametrize(
    "gamma,gae_lambda,advantages,returns",
    [
        (1.0, 0.95, [0.47475, 0.405, 0.3], [0.97475, 1.005, 1.0]),
        (1.0, 1.0, [0.51, 0.42, 0.3], [1.01, 1.02, 1.0]),
        (1.0, 0.0, [0.09, 0.12, 0.3], [0.59, 0.72, 1.0]),
        (0.9, 0.8, [0.22152, 0.266, 0.3], [0.72152, 0.866, 1.0]),
    ],
)
def test_advantages_and_returns_are_those_of_the_definition(gamma, gae_lambda, advantages, returns):
    estimates = gae(REWARDS, VALUES, ALL, gamma=gamma, gae_lambda=gae_lambda)
    close_to_vector(estimates.advantages, torch.tensor([advantages]))
    close_to_vector(estimates.returns, torch.tensor([returns]))


def test_the_value_after_the_last_token_is_0():
    mask = torch.tensor([[True, True, False]])
    estimates = gae(REWARDS, VALUES, mask, gamma=1.0, gae_lambda=0.95)
    # A_1 = 0.02 - 0.6: neither the value 0.7 nor the reward 1.0 behind the mask takes part;
    # in A_0 is 0.95 of it, behind -0.01 + 0.6 - 0.5.
    close(estimates.advantages, torch.tensor([[0.09 - 0.551, -0.58, 0.0]]))
    close(estimates.returns, torch.tensor([[0.5 + 0.09 - 0.551, 0.02, 0.0]]))


def test_reaching_the_length_limit_is_an_end_too():
    # Four tokens fill the row; the last delta is r - V, without a value of the state behind it.
    values = torch.full((1, 4), 5.0)
    estimates = gae(torch.zeros(1, 4), values, torch.ones(1, 4).bool(), gamma=1.0, gae_lambda=0.0)
    close(estimates.advantages, torch.tensor([[0.0, 0.0, 0.0, -5.0]]))


@pytest.mark.parametrize("junk", [float("inf"), float("nan"), 1e30])
def test_nothing_outside_the_mask_reaches_an_advantage(junk):
    mask = torch.tensor([[True, True, False]])
    spoiled = gae(
        REWARDS.masked_fill(~mask, junk),
        VALUES.masked_fill(~mask, junk),
        mask,
        gamma=1.0,
        gae_lambda=0.95,
    )
    assert_close(spoiled, gae(REWARDS, VALUES, mask, gamma=1.0, gae_lambda=0.95))


def test_rows_of_a_batch_do_not_touch_each_other():
    rewards, values = torch.cat([REWARDS, -REWARDS]), torch.cat([VALUES, 2 * VALUES])
    together = gae(rewards, values, torch.ones(2, 3).bool(), gamma=0.9, gae_lambda=0.8)
    alone = gae(-REWARDS, 2 * VALUES, ALL, gamma=0.9, gae_lambda=0.8)
    assert_close(together.advantages[1:], alone.advantages)


def test_returns_are_taken_before_advantages_are_whitened():
    mask = torch.tensor([[True, True, True], [True, True, False]])
    rewards, values = REWARDS.expand(2, 3), VALUES.expand(2, 3)
    estimates = gae(rewards, values, mask, gamma=1.0, gae_lambda=0.95)
    whitened = whiten(
        estimates.advantages,
        mask,
        mean=masked_mean(estimates.advantages, mask),
        variance=masked_variance(estimates.advantages, mask),
    )
    assert not torch.allclose(whitened + values, estimates.returns)
    close(estimates.returns, (estimates.advantages + values).masked_fill(~mask, 0.0))


def test_explained_variance_is_1_for_a_perfect_critic_and_0_for_a_constant_one():
    returns = torch.tensor([[1.0, 3.0, 7.0]])
    close(explained_variance(returns, returns, ALL), torch.tensor(1.0))
    close(explained_variance(torch.full((1, 3), 2.0), returns, ALL), torch.tensor(0.0))


def test_explained_variance_is_below_0_for_a_critic_worse_than_none():
    returns = torch.tensor([[-1.0, 0.0, 1.0]])
    # returns - values = 2 * returns, of variance 4 var(returns): 1 - 4 = -3
    close(explained_variance(-returns, returns, ALL), torch.tensor(-3.0))


def test_explained_variance_ignores_what_is_outside_the_mask():
    mask = torch.tensor([[True, True, True, False]])
    returns = torch.tensor([[-1.0, 0.0, 1.0, 99.0]])
    values = torch.tensor([[1.0, 0.0, -1.0, float("nan")]])
    close(explained_variance(values, returns, mask), torch.tensor(-3.0))


def test_explained_variance_of_returns_that_do_not_vary_is_not_a_number():
    assert explained_variance(VALUES, torch.ones(1, 3), ALL).isnan()


# Two prompts of three responses each. Leaving one out, its baseline is the mean of the other two:
# of 1, 2, 6 these are 4, 3.5, 1.5; of 0, 0, 3 they are 1.5, 1.5, 0.
GROUPED = torch.tensor([1.0, 2.0, 6.0, 0.0, 0.0, 3.0])


def test_a_response_is_compared_with_the_mean_of_the_others_to_its_prompt():
    compared = leave_one_out(GROUPED, group_size=3)
    close(compared.baselines, torch.tensor([4.0, 3.5, 1.5, 1.5, 1.5, 0.0]))
    close(compared.advantages, torch.tensor([-3.0, -1.5, 4.5, -1.5, -1.5, 3.0]))


def test_the_baseline_of_a_response_does_not_depend_on_it():
    changed = GROUPED.clone()
    changed[2] = 100.0
    before, after = (leave_one_out(rewards, group_size=3) for rewards in (GROUPED, changed))
    assert before.baselines[2] == after.baselines[2]
    assert torch.equal(before.advantages[3:], after.advantages[3:])


def test_centred_advantages_are_what_is_above_the_mean_of_the_group():
    compared = group_centred(GROUPED, group_size=3)  # means 3 and 1
    close(compared.baselines, torch.tensor([3.0, 3.0, 3.0, 1.0, 1.0, 1.0]))
    close(compared.advantages, torch.tensor([-2.0, -1.0, 3.0, -1.0, -1.0, 2.0]))


def test_standardized_advantages_are_in_deviations_of_the_group():
    compared = group_standardized(GROUPED, group_size=3)
    # The squares of -2, -1, 3 sum to 14, of -1, -1, 2 to 6: deviations sqrt(14 / 2), sqrt(6 / 2).
    expected = [-2 / 7**0.5, -1 / 7**0.5, 3 / 7**0.5, -1 / 3**0.5, -1 / 3**0.5, 2 / 3**0.5]
    close(compared.advantages, torch.tensor(expected))


@pytest.mark.parametrize("size", [3, 6])
def test_a_group_of_equal_rewards_has_no_advantage(size):
    rewards = torch.full((6,), 0.1)  # whose sum is not exactly a multiple of it
    for compare in (leave_one_out, group_centred, group_standardized):
        advantages = compare(rewards, group_size=size).advantages
        assert_close(advantages, torch.zeros(6), atol=1e-3, rtol=0)  # rounding / 1e-4
