"""From scores to rewards: KL estimators, the end-token rule, the controller."""

import math
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from rlhf_core.maths.rewards import (
    adapted_kl_coef,
    kl_estimates,
    replace_unfinished,
    shape_rewards,
    shape_rewards_after_end,
    subtract_from_unfinished,
)

close_to_vector = partial(assert_close, atol=2e-6, rtol=0)  # the vectors have six decimals
close = partial(assert_close, atol=1e-5, rtol=1e-5)  # sums of a few float32 numbers near 1


def test_kl_estimators_are_those_of_the_definition():
    logprobs = torch.tensor([[-3.3213, -4.998, -3.869]])
    ref_logprobs = torch.tensor([[-2.9898, -4.9554, -4.5041]])
    kl = kl_estimates(logprobs, ref_logprobs, torch.ones(1, 3).bool())
    close_to_vector(kl.k1, torch.tensor([[-0.3315, -0.0426, 0.6351]]))  # -3.3213 + 2.9898 ...
    close_to_vector(kl.k2, torch.tensor([[0.054946, 0.000907, 0.201676]]))
    close_to_vector(kl.k3, torch.tensor([[0.061556, 0.00092, 0.164982]]))
    close_to_vector(kl.k1.sum(), torch.tensor(0.261))
    close_to_vector(kl.k2.sum(), torch.tensor(0.25753))
    close_to_vector(kl.k3.sum(), torch.tensor(0.227459))


def test_k1_and_k3_are_unbiased_and_k2_is_not():
    # Every outcome of a coin, weighted by the policy's probability of it.
    policy, reference = torch.tensor([0.6, 0.4]), torch.tensor([0.5, 0.5])
    kl = kl_estimates(policy.log()[:, None], reference.log()[:, None], torch.ones(2, 1).bool())
    exact = 0.6 * math.log(0.6 / 0.5) + 0.4 * math.log(0.4 / 0.5)
    k1, k2, k3 = (policy @ estimate[:, 0] for estimate in kl)
    close_to_vector(k1, torch.tensor(0.0201355))
    close_to_vector(k3, torch.tensor(exact))
    close_to_vector(k2, torch.tensor(0.0199310))
    close_to_vector(policy @ kl.k1[:, 0].square() - k1.square(), torch.tensor(0.0394565))


def test_kl_outside_the_mask_is_0():
    mask = torch.tensor([[True, False, False]])
    logprobs = torch.tensor([[-1.0, float("-inf"), float("nan")]])
    for estimate in kl_estimates(logprobs, torch.tensor([[-2.0, -1.0, -1.0]]), mask):
        assert estimate[0, 1:].tolist() == [0.0, 0.0]


def test_the_kl_of_a_policy_that_is_the_reference_is_exactly_0():
    logprobs = torch.tensor([[-0.1, -7.3, -20.0]])
    for estimate in kl_estimates(logprobs, logprobs.clone(), torch.ones(1, 3).bool()):
        assert estimate.tolist() == [[0.0, 0.0, 0.0]]


def test_the_mean_kl_penalty_is_the_kl_divergence():
    policy, reference = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    exact = 0.7 * math.log(7 / 3) + 0.2 * math.log(2 / 3) + 0.1 * math.log(1 / 4)
    mask = torch.ones(3, 1).bool()
    kl = kl_estimates(policy.log()[:, None], reference.log()[:, None], mask)
    rewards = shape_rewards(torch.zeros(3), kl.k1, mask, kl_coef=2.0)
    close(-(policy @ rewards[:, 0]), torch.tensor(2 * exact))


def test_unfinished_responses_all_get_the_same_low_score():
    scores, ended = torch.tensor([1.5, 0.7, 2.0]), torch.tensor([True, True, False])
    replaced = replace_unfinished(scores, ended, missing_eos_score=-1.0)
    close(replaced, torch.tensor([1.5, 0.7, -1.0]))  # replaced, not lowered by 1 to 1.0


def test_a_penalty_is_subtracted_from_unfinished_responses_alone():
    scores, ended = torch.tensor([1.5, 0.7, 2.0]), torch.tensor([True, True, False])
    lowered = subtract_from_unfinished(scores, ended, missing_eos_penalty=1.0)
    close(lowered, torch.tensor([1.5, 0.7, 1.0]))  # and still beats the 0.7 that ended


TWO_OF_FOUR = torch.tensor([[True, True, False, False]])


def test_the_score_lands_at_the_last_token_not_in_the_last_column():
    rewards = shape_rewards(torch.tensor([2.0]), torch.zeros(1, 4), TWO_OF_FOUR, kl_coef=0.1)
    close(rewards, torch.tensor([[0.0, 2.0, 0.0, 0.0]]))


def test_in_convention_b_the_score_lands_one_later_where_there_is_room():
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]).bool()
    rewards = shape_rewards_after_end(
        torch.tensor([2.0, 3.0, 4.0]), torch.zeros(3, 4), mask, kl_coef=0.1
    )
    close(rewards, torch.tensor([[0.0, 0, 2, 0], [0, 0, 0, 3], [0, 0, 0, 4]]))


@pytest.mark.parametrize("shape", [shape_rewards, shape_rewards_after_end])
@pytest.mark.parametrize("junk", [5.0, float("nan")])
def test_the_kl_of_padding_is_not_rewarded(shape, junk):
    # Code that takes the pads' KL into the row returns [-0.02, 0.02, 2.2, 0.2] here.
    kl = torch.tensor([[0.2, -0.2, junk, junk]])
    rewards = shape(torch.tensor([2.0]), kl, TWO_OF_FOUR, kl_coef=0.1)
    close(rewards.sum(), torch.tensor(2.0))
    close(rewards[0, 0], torch.tensor(-0.02))
    assert rewards[0, 3] == 0


# 9 / 6 - 1 = 0.5 counts as 0.2: 0.15 * (1 + 0.2 * 512 / 10000) = 0.151536
# 5.7 / 6 - 1 = -0.05:           0.15 * (1 - 0.05 * 0.0512)     = 0.149616
# 3 / 6 - 1 = -0.5 as -0.2:      0.15 * (1 - 0.2 * 0.0512)      = 0.148464
@pytest.mark.parametrize(
    "kl_to_reference,adapted", [(9.0, 0.151536), (5.7, 0.149616), (3.0, 0.148464), (6.0, 0.15)]
)
def test_the_kl_coefficient_follows_the_distance_to_its_target(kl_to_reference, adapted):
    kl_coef = adapted_kl_coef(0.15, kl_to_reference, kl_target=6.0, episodes=512, kl_horizon=10_000)
    assert kl_coef == pytest.approx(adapted, abs=1e-9)
