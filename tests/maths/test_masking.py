"""Which tokens count, where they sit, and their moments."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from rlhf_core.maths.masking import (
    fill_after_end,
    has_ended,
    last_index,
    masked_mean,
    masked_variance,
    position_ids,
    rescale,
    until_end,
    value_mask_after_end,
    whiten,
)

close_to_vector = partial(assert_close, atol=2e-6, rtol=0)  # the vectors have six decimals
close = partial(assert_close, atol=1e-5, rtol=1e-5)  # sums of a few float32 numbers near 1

EOS, PAD = 1, 9
EOS_IDS = torch.tensor([EOS])


@pytest.mark.parametrize(
    "attention_mask,positions",
    [
        ([0, 0, 1, 1, 1], [0, 0, 0, 1, 2]),  # padded on the left
        ([1, 1, 1, 0, 0], [0, 1, 2, 3, 3]),  # padded on the right
        ([0, 1, 0, 0, 1], [0, 0, 1, 1, 1]),
    ],
)
def test_padding_shifts_no_position(attention_mask, positions):
    found = position_ids(torch.tensor([attention_mask]).bool())
    assert found.tolist() == [positions]


def test_a_response_counts_up_to_and_including_its_first_end_token():
    response_ids = torch.tensor([[4, 5, 1, 6, 7], [4, 5, 6, 7, 1], [4, 5, 6, 7, 8]])
    mask = until_end(response_ids, EOS_IDS)
    assert mask.long().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert last_index(mask).tolist() == [2, 4, 4]
    assert has_ended(response_ids, EOS_IDS, mask).tolist() == [True, True, False]
    truncated = fill_after_end(response_ids, mask, PAD)
    assert truncated.tolist() == [[4, 5, 1, 9, 9], [4, 5, 6, 7, 1], [4, 5, 6, 7, 8]]


def test_the_first_of_several_end_tokens_ends_a_response():
    response_ids = torch.tensor([[4, 2, 1, 2, 1], [1, 1, 1, 1, 1], [2, 4, 5, 1, 6]])
    mask = until_end(response_ids, torch.tensor([1, 2]))
    assert last_index(mask).tolist() == [1, 0, 0]


def test_an_end_token_behind_the_mask_ends_nothing():
    response_mask = torch.tensor([[True, True, False]])
    assert has_ended(torch.tensor([[4, 5, EOS]]), EOS_IDS, response_mask).tolist() == [False]


def test_the_last_index_of_a_row_without_tokens_is_minus_1():
    assert last_index(torch.zeros(1, 3).bool()).tolist() == [-1]


# The score is read at column context + L: here 4 + 1 and 4 + 3.
@pytest.mark.parametrize("pad", [PAD, EOS])
def test_the_read_out_is_at_the_end_token_even_where_padding_looks_like_it(pad):
    context = 4
    input_ids = torch.tensor([[pad, pad, 3, 4, 5, EOS, pad, pad], [3, 4, 5, 6, 7, 8, 5, EOS]])
    mask = until_end(input_ids[:, context:], EOS_IDS)
    assert (context + last_index(mask)).tolist() == [5, 7]


def test_the_value_mask_after_the_end_has_one_column_more_where_there_is_room():
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]).bool()
    extended = value_mask_after_end(mask)
    assert extended.long().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]


def test_a_masked_mean_is_the_mean_over_tokens_not_over_sequences():
    losses = torch.tensor([[1.0, 1.0, 1.0, 1.0], [3.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    # (4 * 1 + 3) / 5 = 1.4; the mean of the sequences' means would be (1 + 3) / 2 = 2
    close(masked_mean(losses, mask), torch.tensor(1.4))


def test_padding_that_stores_a_number_does_not_count():
    # Reference code stores +1 where a response is padded, and averages over it.
    logprobs = torch.tensor([[-1.0, -2.0, 1.0, 1.0]])
    mask = torch.tensor([[True, True, False, False]])
    close(masked_mean(-logprobs, mask), torch.tensor(1.5))  # (1 + 2) / 2, a sum of 3.0
    moved = torch.tensor([[0.1, 0.1, 0.0, 0.0]])
    close(masked_mean(moved.square() / 2, mask), torch.tensor(0.005))  # not 0.0025


@pytest.mark.parametrize("junk", [float("inf"), float("-inf"), float("nan")])
def test_an_entry_outside_the_mask_never_counts(junk):
    values = torch.tensor([[1.0, 3.0, junk]], requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    mean, variance = masked_mean(values, mask), masked_variance(values, mask)
    close(mean, torch.tensor(2.0))
    close(variance, torch.tensor(1.0))  # ((1 - 2)^2 + (3 - 2)^2) / 2
    whitened = whiten(values, mask, mean=mean, variance=variance)
    close(whitened, torch.tensor([[-1.0, 1.0, 0.0]]))
    rescaled = rescale(values, mask, mean=mean, variance=variance)
    close(rescaled, torch.tensor([[1.0, 3.0, 0.0]]))
    mean.backward()
    assert_close(values.grad, torch.tensor([[0.5, 0.5, 0.0]]))


def test_the_mean_of_nothing_is_0():
    close(masked_mean(torch.tensor([[5.0]]), torch.tensor([[False]])), torch.tensor(0.0))


ONE_TO_FIVE = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
FIVE = torch.ones(1, 5).bool()


def test_the_variance_is_divided_by_the_number_of_entries():
    # (4 + 1 + 0 + 1 + 4) / 5 = 2; divided by n - 1 it would be 2.5
    close(masked_variance(ONE_TO_FIVE, FIVE), torch.tensor(2.0))


def test_whitening_divides_by_the_root_of_the_biased_variance():
    mean, variance = masked_mean(ONE_TO_FIVE, FIVE), masked_variance(ONE_TO_FIVE, FIVE)
    whitened = whiten(ONE_TO_FIVE, FIVE, mean=mean, variance=variance)
    close_to_vector(whitened, torch.tensor([[-1.414214, -0.707107, 0.0, 0.707107, 1.414214]]))
    rescaled = rescale(ONE_TO_FIVE, FIVE, mean=mean, variance=variance)
    close_to_vector(rescaled, torch.tensor([[1.585786, 2.292893, 3.0, 3.707107, 4.414214]]))


def test_whitening_uses_the_moments_it_is_given():
    moments = {"mean": torch.tensor(3.0), "variance": torch.tensor(2.5)}  # unbiased: 10 / 4
    whitened = whiten(ONE_TO_FIVE, FIVE, **moments)
    close_to_vector(whitened, torch.tensor([[-1.264911, -0.632456, 0.0, 0.632456, 1.264911]]))


REWARDS = 1.2 + 0.1 * torch.arange(9).reshape(3, 3)  # 1.2 .. 2.0
NINE = torch.ones(3, 3).bool()


# biased variance 0.6 / 9, unbiased 0.6 / 8
@pytest.mark.parametrize(
    "variance,expected",
    [
        (
            0.6 / 9,
            [
                [0.050807, 0.438105, 0.825403],
                [1.212702, 1.6, 1.987298],
                [2.374597, 2.761895, 3.149193],
            ],
        ),
        (
            0.6 / 8,
            [
                [0.139407, 0.504555, 0.869703],
                [1.234852, 1.6, 1.965148],
                [2.330297, 2.695445, 3.060593],
            ],
        ),
    ],
)
def test_rescaling_keeps_the_mean(variance, expected):
    rescaled = rescale(REWARDS, NINE, mean=torch.tensor(1.6), variance=torch.tensor(variance))
    close_to_vector(rescaled, torch.tensor(expected))


def test_the_moments_of_the_rescaled_rewards_are_the_biased_ones():
    close(masked_mean(REWARDS, NINE), torch.tensor(1.6))
    close(masked_variance(REWARDS, NINE), torch.tensor(0.6 / 9))


def test_rescaled_rewards_favour_the_shorter_of_two_equal_responses():
    rewards = torch.zeros(2, 60)
    rewards[0, 29] = rewards[1, 59] = 2.5
    mask = torch.arange(60) < torch.tensor([[30], [60]])
    rescaled = rescale(
        rewards, mask, mean=masked_mean(rewards, mask), variance=masked_variance(rewards, mask)
    )
    # n = 90 tokens of mean 5 / 90; every token gains mean * (1 - 1 / sigma) < 0 for sigma < 1
    assert_close(rescaled.sum(dim=1), torch.tensor([3.928, 1.072]), atol=5e-4, rtol=0)
