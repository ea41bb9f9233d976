"""DPO's loss by hand, and against the pair loss of the reward model that a policy is."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from rlhf_core.maths.direct_preferences import dpo_loss, implicit_rewards

close = partial(assert_close, atol=1e-6, rtol=1e-5)

LOGPROBS = torch.tensor([-10.0, -12.0])
REF_LOGPROBS = torch.tensor([-11.0, -10.0])
PAIR = {"ranks": torch.tensor([1, 2]), "prompt_index": torch.tensor([0, 0])}

loss = partial(dpo_loss, label_smoothing=0.0)


def test_the_implicit_reward_is_the_distance_that_a_response_moved_times_the_coefficient():
    rewards = implicit_rewards(LOGPROBS, REF_LOGPROBS, kl_coef=0.1)
    close(rewards, torch.tensor([0.1, -0.2]))


def test_the_loss_of_a_pair_is_that_of_the_paper():
    rewards = implicit_rewards(LOGPROBS, REF_LOGPROBS, kl_coef=0.1).requires_grad_()
    found = loss(rewards, **PAIR)
    found.sum().backward()
    # The lead is 0.1 * (1 - -2) = 0.3; log(1 + e^-0.3) = 0.5543552, and e^-0.3 / (1 + e^-0.3) its
    # slope, 0.4255575.
    close(found, torch.tensor([0.5543552]))
    close(rewards.grad, torch.tensor([-0.4255575, 0.4255575]))


def test_a_policy_that_has_not_moved_prefers_nothing():
    close(loss(torch.zeros(2), **PAIR), torch.tensor([0.6931472]))


def test_smoothing_mixes_in_the_loss_of_the_swapped_pair():
    rewards = torch.tensor([0.2, -0.1])  # a lead of 0.3, as above; swapped 0.5543552 + 0.3
    found = dpo_loss(rewards, **PAIR, label_smoothing=0.25)
    close(found, torch.tensor([0.75 * 0.5543552 + 0.25 * 0.8543552]))


def test_every_prompt_counts_once_however_many_pairs_it_has():
    # Of 3 responses ranked 1, 2, 2 two pairs compare; the tie of the last two does not.
    rewards = torch.tensor([1.0, 0.0, 1.0, 0.3, 0.0])
    found = loss(rewards, torch.tensor([1, 2, 2, 2, 1]), torch.tensor([0, 0, 0, 1, 1]))
    # leads 1 and 0: (0.3132617 + 0.6931472) / 2; a lead of -0.3: 0.8543552
    close(found, torch.tensor([0.5032044, 0.8543552]))


@pytest.mark.parametrize("lead, expected", [(-1000.0, 1000.0), (1000.0, 0.0)])
def test_leads_of_any_size_have_a_finite_loss_and_gradient(lead, expected):
    rewards = torch.tensor([lead, 0.0], requires_grad=True)
    found = loss(rewards, **PAIR)
    found.sum().backward()
    close(found, torch.tensor([expected]))
    assert rewards.grad.isfinite().all()
