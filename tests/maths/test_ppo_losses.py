"""PPO's losses against published vectors, and what clipping does to gradients."""

import math
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from rlhf_core.maths.losses import ppo_policy_loss, ppo_value_loss, reinforce_loss
from rlhf_core.maths.masking import masked_mean
from rlhf_core.maths.rewards import kl_estimates

close_to_vector = partial(assert_close, atol=2e-6, rtol=0)  # the vectors have six decimals
close = partial(assert_close, atol=1e-5, rtol=1e-5)  # sums of a few float32 numbers near 1

policy_loss = partial(ppo_policy_loss, clip_range=0.2)
value_loss = partial(ppo_value_loss, value_clip_range=0.2)


# The clipped ratio is 1.2 or 0.8; the surrogate is the smaller product, the loss its negative.
@pytest.mark.parametrize(
    "ratio,advantage,loss,clipped",
    [
        (1.3, 1.0, -1.2, True),
        (1.3, -1.0, 1.3, False),
        (0.7, 1.0, -0.7, False),
        (0.7, -1.0, 0.8, True),
        (1.1, 1.0, -1.1, False),
        (1.1, -1.0, 1.1, False),
    ],
)
def test_a_token_is_clipped_where_it_has_moved_too_far_the_good_way(
    ratio, advantage, loss, clipped
):
    logprobs = torch.tensor([[math.log(ratio)]], requires_grad=True)  # old_logprobs are 0
    result = policy_loss(
        logprobs, torch.zeros(1, 1), torch.tensor([[advantage]]), torch.ones(1, 1).bool()
    )
    result.loss.backward()
    close_to_vector(result.loss, torch.tensor(loss))
    assert result.clip_fraction.item() == clipped
    # Clipped, the loss is a constant; else it is -ratio * advantage, whose slope is itself.
    close_to_vector(logprobs.grad, torch.tensor([[0.0 if clipped else loss]]))


def test_policy_loss_and_its_metrics_are_means_over_tokens():
    ratio = torch.tensor([[1.3, 0.7, 1.1]])  # new / old
    mask, zeros = torch.ones(1, 3).bool(), torch.zeros(1, 3)
    result = policy_loss(ratio.log(), zeros, torch.tensor([[1.0, -1.0, 2.0]]), mask)
    close_to_vector(result.loss, torch.tensor(-0.866667))  # (-1.2 + 0.8 - 2.2) / 3
    close_to_vector(result.clip_fraction, torch.tensor(0.666667))
    close_to_vector(result.approx_kl, torch.tensor(0.033))  # mean of ratio - 1 - ln ratio
    k2 = kl_estimates(ratio.log(), zeros, mask).k2
    close_to_vector(masked_mean(k2, mask), torch.tensor(0.034189))


@pytest.mark.parametrize(
    "junk,junk_advantage",
    [(50.0, 50.0), (float("inf"), 1.0), (float("nan"), 1.0), (0.5, float("nan"))],
)
def test_padding_has_no_part_in_the_policy_loss_nor_in_its_gradient(junk, junk_advantage):
    mask = torch.tensor([[True, True, False]])
    logprobs = torch.tensor([[0.5, 0.5, junk]], requires_grad=True)  # ratio e^0.5 = 1.65 > 1.2
    advantages = torch.tensor([[1.0, -1.0, junk_advantage]])
    result = policy_loss(logprobs, torch.zeros(1, 3), advantages, mask)
    result.loss.backward()
    # loss = -mean(min(1.65, 1.2), min(-1.65, -1.2)) = (-1.2 + e^0.5) / 2
    close(result.loss, torch.tensor((-1.2 + math.exp(0.5)) / 2))
    close(result.clip_fraction, torch.tensor(0.5))
    close(result.approx_kl, torch.tensor(math.exp(0.5) - 1.5))
    close(logprobs.grad, torch.tensor([[0.0, math.exp(0.5) / 2, 0.0]]))


def test_an_extreme_ratio_stays_finite():
    mask = torch.ones(1, 2).bool()
    result = policy_loss(
        torch.tensor([[200.0, -200.0]]), torch.zeros(1, 2), torch.full((1, 2), -1.0), mask
    )
    # e^20 and, clipped, 0.8: the log-ratio is bounded by 20
    close(result.loss, torch.tensor((math.exp(20) + 0.8) / 2))
    assert result.approx_kl.isfinite()
    assert result.extreme_ratio_fraction == 1.0


def test_tokens_whose_ratio_meets_its_bound_are_counted():
    log_ratio = torch.tensor([[20.5, 19.5, -20.5, 0.0, 99.0]])  # new / old
    mask = torch.tensor([[True, True, True, True, False]])
    result = policy_loss(log_ratio, torch.zeros(1, 5), torch.ones(1, 5), mask)
    assert result.extreme_ratio_fraction == 0.5


# With a bound of 3: a bad token's loss is at most 3 times its size; a good one's is not touched.
@pytest.mark.parametrize(
    "ratio,advantage,loss,bounded",
    [
        (5.0, -1.0, 3.0, True),
        (5.0, -2.0, 6.0, True),
        (2.5, -1.0, 2.5, False),
        (0.5, -1.0, 0.8, False),
        (5.0, 1.0, -1.2, False),
        (5.0, 0.0, 0.0, False),
    ],
)
def test_the_dual_clip_bounds_the_loss_of_a_bad_token(ratio, advantage, loss, bounded):
    logprobs = torch.tensor([[math.log(ratio)]], requires_grad=True)
    mask = torch.ones(1, 1).bool()
    advantages = torch.tensor([[advantage]])
    result = policy_loss(logprobs, torch.zeros(1, 1), advantages, mask, dual_clip=3.0)
    result.loss.backward()
    close(result.loss, torch.tensor(loss))
    assert result.dual_clip_fraction == bounded
    free = policy_loss(logprobs.detach(), torch.zeros(1, 1), advantages, mask)
    assert free.dual_clip_fraction == 0
    assert (logprobs.grad.item() == 0) == (bounded or ratio == 0.5 or advantage >= 0)


@pytest.mark.parametrize("log_ratio", [1e-6, -1e-6, 1e-3, 1.0])  # new / old
def test_the_distance_from_the_rollout_is_never_negative(log_ratio):
    logprobs, mask = torch.tensor([[log_ratio]]), torch.ones(1, 1).bool()
    result = policy_loss(logprobs, torch.zeros(1, 1), torch.ones(1, 1), mask)
    assert result.approx_kl.item() >= 0


def test_metrics_carry_no_gradient():
    logprobs = torch.tensor([[0.1]], requires_grad=True)
    result = policy_loss(logprobs, torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1, 1).bool())
    assert not result.clip_fraction.requires_grad
    assert not result.approx_kl.requires_grad


def test_reinforce_weighs_log_probabilities_by_advantages_and_clips_nothing():
    logprobs = torch.tensor([[-0.5, -1.0, -7.0]], requires_grad=True)
    old_logprobs = torch.tensor([[-1.0, -1.0, -1.0]])  # ratio e^0.5 = 1.65, and 1
    advantages = torch.tensor([[2.0, -1.0, 5.0]])
    result = reinforce_loss(logprobs, old_logprobs, advantages, torch.tensor([[True, True, False]]))
    result.loss.backward()
    # -(2 * -0.5 + -1 * -1) / 2 = 0; each token's gradient is its advantage, halved
    close(result.loss, torch.tensor(0.0))
    close(logprobs.grad, torch.tensor([[-1.0, 0.5, 0.0]]))
    assert result.clip_fraction.item() == 0
    close(result.approx_kl, torch.tensor((math.exp(0.5) - 1.5) / 2))


@pytest.mark.parametrize("junk", [float("inf"), float("nan")])
def test_padding_has_no_part_in_reinforce(junk):
    mask = torch.tensor([[True, False]])
    logprobs = torch.tensor([[-0.5, junk]], requires_grad=True)
    advantages = torch.tensor([[2.0, 1.0]])
    result = reinforce_loss(logprobs, torch.tensor([[-0.5, -1.0]]), advantages, mask)
    result.loss.backward()
    close(result.loss, torch.tensor(1.0))
    close(logprobs.grad, torch.tensor([[-2.0, 0.0]]))


OLD_VALUES = torch.ones(1, 3)
RETURNS = torch.tensor([[2.0, 2.0, 0.0]])
THREE = torch.ones(1, 3).bool()


def test_the_value_loss_is_half_the_mean_of_the_larger_squared_error():
    values = torch.tensor([[1.5, 1.1, 0.5]], requires_grad=True)
    result = value_loss(values, OLD_VALUES, RETURNS, THREE)
    result.loss.backward()
    # clipped values 1.2, 1.1, 0.8: max(0.25, 0.64) + 0.81 + max(0.25, 0.64) = 2.09; 2.09 / 3 / 2
    close_to_vector(result.loss, torch.tensor(0.348333))
    close_to_vector(result.clip_fraction, torch.tensor(2 / 3))
    # Clipped values are constants; the middle one learns (1.1 - 2) / 3.
    close_to_vector(values.grad, torch.tensor([[0.0, -0.3, 0.0]]))


def test_a_value_that_moved_away_from_its_return_is_not_clipped():
    values = torch.tensor([[0.5, 0.5, 1.5]])  # each further from its return than 1.0 was
    result = value_loss(values, OLD_VALUES, RETURNS, THREE)
    close(result.loss, torch.tensor(0.5 * (2.25 + 2.25 + 2.25) / 3))
    assert result.clip_fraction.item() == 0


def test_a_value_within_the_range_is_never_counted_as_clipped():
    # old + (new - old) is not new in floating point; a difference of one rounding is no clipping.
    draw = partial(torch.rand, 1, 2000, generator=torch.Generator().manual_seed(0))
    old_values, values, returns = (0.19 * draw() for _ in range(3))
    result = value_loss(values, old_values, returns, torch.ones_like(values).bool())
    assert result.clip_fraction.item() == 0


@pytest.mark.parametrize("junk", [50.0, float("inf"), float("nan")])
def test_padding_has_no_part_in_the_value_loss_nor_in_its_gradient(junk):
    mask = torch.tensor([[True, True, True, False]])
    pad = partial(torch.nn.functional.pad, pad=(0, 1))
    values = torch.tensor([[1.5, 1.1, 0.5, junk]], requires_grad=True)
    result = value_loss(values, pad(OLD_VALUES), pad(RETURNS, value=junk), mask)
    result.loss.backward()
    close_to_vector(result.loss, torch.tensor(0.348333))
    close_to_vector(values.grad, torch.tensor([[0.0, -0.3, 0.0, 0.0]]))
