"""One number from the losses of many tokens: what each reduction is a mean over."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from rlhf_core.maths.losses import ppo_policy_loss, ppo_value_loss
from rlhf_core.maths.reductions import micro_batch_mean, sequence_mean, sequence_sum, token_mean

close = partial(assert_close, atol=1e-6, rtol=1e-6)  # sums of a few float32 numbers near 1

LOSSES = torch.tensor([[1.0, 1.0, 1.0, 1.0], [3.0, float("nan"), 50.0, -7.0]])
MASK = torch.tensor([[True, True, True, True], [True, False, False, False]])
GLOBAL = [token_mean, sequence_mean, sequence_sum]


# 7 / 5; (1 + 3) / 2; (4 + 3) / 2; what they are means over: 5 tokens, 2 responses
@pytest.mark.parametrize(
    "reduce,mean,weight",
    [
        (token_mean, 1.4, 5),
        (micro_batch_mean, 1.4, 1),
        (sequence_mean, 2.0, 2),
        (sequence_sum, 3.5, 2),
    ],
)
def test_each_reduction_is_a_mean_over_something_else(reduce, mean, weight):
    reduced = reduce(LOSSES, MASK)
    close(reduced.mean, torch.tensor(mean))
    assert reduced.weight == weight


def over_micro_batches(reduce, rows):
    """The weighted mean of the micro-batches' means, as an optimizer step takes it."""
    parts = [reduce(LOSSES[part], MASK[part]) for part in rows]
    return sum(part.mean * part.weight for part in parts) / sum(part.weight for part in parts)


@pytest.mark.parametrize("reduce", GLOBAL)
def test_micro_batches_do_not_change_a_mean_over_all(reduce):
    close(over_micro_batches(reduce, [[0], [1]]), reduce(LOSSES, MASK).mean)


def test_micro_batches_are_part_of_the_mean_over_them():
    # each response a micro-batch of its own: (1 + 3) / 2, not 7 / 5
    close(over_micro_batches(micro_batch_mean, [[0], [1]]), torch.tensor(2.0))


@pytest.mark.parametrize("reduce", [*GLOBAL, micro_batch_mean])
def test_a_row_without_tokens_counts_for_nothing(reduce):
    losses = torch.cat([LOSSES, torch.full((1, 4), torch.inf)])
    mask = torch.cat([MASK, torch.zeros(1, 4).bool()])
    for with_row, without in zip(reduce(losses, mask), reduce(LOSSES, MASK), strict=True):
        close(with_row, without)


@pytest.mark.parametrize(
    "reduce,of_first,of_second",
    [(token_mean, 1 / 5, 1 / 5), (sequence_mean, 1 / 8, 1 / 2), (sequence_sum, 1 / 2, 1 / 2)],
)
def test_a_token_weighs_by_the_length_of_its_response_or_does_not(reduce, of_first, of_second):
    losses = LOSSES.nan_to_num().requires_grad_()
    reduce(losses, MASK).mean.backward()
    close(losses.grad, torch.tensor([[of_first] * 4, [of_second, 0, 0, 0]]))


def test_both_losses_are_reduced_as_asked():
    # ratio 1, so the loss of a token is minus its advantage; half the squared error of 2, then 6
    zeros, mask = torch.zeros(2, 4), MASK
    advantages = -LOSSES.nan_to_num()
    policy = ppo_policy_loss(zeros, zeros, advantages, mask, clip_range=0.2, reduce=sequence_sum)
    close(policy.loss, torch.tensor(3.5))
    assert policy.weight == 2
    returns = (2 * LOSSES.nan_to_num()).sqrt()
    value = ppo_value_loss(zeros, zeros, returns, mask, value_clip_range=9.0, reduce=sequence_mean)
    close(value.loss, torch.tensor(2.0))
    assert value.weight == 2
