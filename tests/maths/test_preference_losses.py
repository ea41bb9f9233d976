"""The losses that teach a reward model: pairs, rankings, ties."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from rlhf_core.maths.losses import better_worse_pairs, bradley_terry_loss, kwise_loss

close_to_vector = partial(assert_close, atol=2e-6, rtol=0)  # the vectors have six decimals
close = partial(assert_close, atol=1e-5, rtol=1e-5)  # sums of a few float32 numbers near 1


@pytest.mark.parametrize(
    "chosen,rejected,loss,gradient",
    [
        (1.2, 0.3, 0.341154, -0.28905),  # log(1 + e^-0.9), -1 / (1 + e^0.9)
        (0.0, 0.0, 0.693147, -0.5),
        (-1.0, 2.0, 3.048587, -0.952574),
        (-50.0, 50.0, 100.0, -1.0),
    ],
)
def test_a_pair_loses_the_log_probability_of_its_preference(chosen, rejected, loss, gradient):
    scores = torch.tensor([chosen, rejected], requires_grad=True)
    found = bradley_terry_loss(scores[:1], scores[1:])
    found.backward()
    close_to_vector(found, torch.tensor(loss))
    close_to_vector(scores.grad, torch.tensor([gradient, -gradient]))


def test_a_difference_of_100_loses_100_where_other_forms_lose_infinity():
    difference = torch.tensor(-100.0)
    assert (1 + (-difference).exp()).log().isinf()
    assert (-difference.sigmoid().log()).isinf()
    loss = bradley_terry_loss(difference[None], torch.zeros(1))
    close(loss, torch.tensor(100.0))


def test_a_pair_that_is_as_good_as_certain_loses_0_and_teaches_nothing():
    scores = torch.tensor([100.0, -100.0], requires_grad=True)
    loss = bradley_terry_loss(scores[:1], scores[1:])
    loss.backward()
    assert loss.item() == 0
    assert scores.grad.tolist() == [0, 0]


def test_a_margin_is_taken_off_the_score_of_the_chosen():
    loss = bradley_terry_loss(torch.tensor([1.2 - 0.5]), torch.tensor([0.3]))
    close_to_vector(loss, torch.tensor(0.513015))  # log(1 + e^-0.4)


def test_the_loss_of_a_batch_is_the_mean_over_its_pairs():
    loss = bradley_terry_loss(torch.tensor([1.2, -1.0]), torch.tensor([0.3, 2.0]))
    close_to_vector(loss, torch.tensor((0.341154 + 3.048587) / 2))


@pytest.mark.parametrize(
    "scores,ranks,loss,gradient,pairs",
    [
        (
            [2.0, 1.0, 0.5, -1.0],
            [1, 2, 3, 4],
            0.2276134,
            [-0.083132, -0.037967, 0.062923, 0.058176],
            6,
        ),
        (  # the tie leaves 5 of 6 pairs, and the sum is divided by 5
            [2.0, 1.0, 0.5, -1.0],
            [1, 2, 2, 3],
            0.1783207,
            [-0.099759, 0.029948, 0.0, 0.069811],
            5,
        ),
        ([0.3, 0.1, -0.2], [2, 1, 3], 0.608857, [0.057431, -0.32513, 0.267699], 3),
    ],
)
def test_a_ranking_loses_the_mean_over_its_pairs_without_ties(scores, ranks, loss, gradient, pairs):
    scores = torch.tensor(scores, requires_grad=True)
    one_prompt = torch.zeros(len(ranks)).long()
    found = kwise_loss(scores, torch.tensor(ranks), one_prompt)
    found.sum().backward()
    assert found.shape == (1,)
    close_to_vector(found, torch.tensor([loss]))
    close_to_vector(scores.grad, torch.tensor(gradient))
    assert len(better_worse_pairs(torch.tensor(ranks), one_prompt).better) == pairs


def test_every_prompt_weighs_the_same_however_many_responses_it_has():
    scores = torch.tensor([2.0, 0.3, 1.0, 0.1, 0.5, -0.2, -1.0])  # two prompts, interleaved
    ranks = torch.tensor([1, 2, 2, 1, 3, 3, 4])
    prompt_index = torch.tensor([0, 1, 0, 1, 0, 1, 0])
    losses = kwise_loss(scores, ranks, prompt_index)
    close_to_vector(losses, torch.tensor([0.2276134, 0.608857]))
    # (0.2276134 + 0.608857) / 2; pooled over pairs it would be (6 * 0.22761 + 3 * 0.60886) / 9
    close_to_vector(losses.mean(), torch.tensor(0.418235))


def test_responses_of_different_prompts_are_not_compared():
    pairs = better_worse_pairs(torch.tensor([1, 2, 1, 2]), torch.tensor([0, 0, 1, 1]))
    assert pairs.better.tolist() == [0, 2]
    assert pairs.worse.tolist() == [1, 3]


def test_a_prompt_of_ties_alone_loses_0_and_teaches_nothing():
    scores = torch.tensor([1.0, -1.0], requires_grad=True)
    loss = kwise_loss(scores, torch.tensor([1, 1]), torch.tensor([0, 0]))
    loss.sum().backward()
    assert loss.tolist() == [0]
    assert scores.grad.tolist() == [0, 0]


score = st.floats(-20, 20, width=32)
rankings = st.lists(st.tuples(score, st.integers(1, 9)), min_size=2, max_size=9)


@given(pair=st.tuples(score, score))
def test_a_ranking_of_two_is_a_pair(pair):
    chosen, rejected = torch.tensor(pair).split(1)
    ranks, prompt_index = torch.tensor([1, 2]), torch.zeros(2).long()
    kwise = kwise_loss(torch.cat([chosen, rejected]), ranks, prompt_index)
    assert_close(kwise, bradley_terry_loss(chosen, rejected)[None])


@given(ranking=rankings)
def test_a_ranking_loses_what_its_pairs_lose_one_by_one(ranking):
    scores, ranks = (torch.tensor(column) for column in zip(*ranking, strict=True))
    pairs = [
        math.log1p(math.exp(worse - better))
        for better, better_rank in ranking
        for worse, worse_rank in ranking
        if better_rank < worse_rank
    ]
    expected = sum(pairs) / len(pairs) if pairs else 0.0
    loss = kwise_loss(scores, ranks, torch.zeros_like(ranks))
    close(loss, torch.tensor([expected]))


@given(ranking=rankings, constant=score)
def test_a_constant_added_to_all_scores_of_a_prompt_changes_no_loss(ranking, constant):
    scores, ranks = (torch.tensor(column) for column in zip(*ranking, strict=True))
    one_prompt = torch.zeros_like(ranks)
    shifted = kwise_loss(scores + constant, ranks, one_prompt)
    # A sum near 40 is rounded by up to 2e-6, and each of a pair's two sums is.
    close(shifted, kwise_loss(scores, ranks, one_prompt))


@given(ranking=rankings)
def test_the_gradients_of_a_prompt_sum_to_0(ranking):
    scores, ranks = (torch.tensor(column) for column in zip(*ranking, strict=True))
    scores.requires_grad_()
    kwise_loss(scores, ranks, torch.zeros_like(ranks)).sum().backward()
    close(scores.grad.sum(), torch.tensor(0.0))
