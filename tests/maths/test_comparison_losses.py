"""Comparisons beyond the plain pair: margins, ties, doubtful labels, tokens, one choice of K."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from rlhf_core.maths.losses import kwise_loss
from rlhf_core.maths.preference_losses import (
    best_of_k_losses,
    compared_pairs,
    davidson_losses,
    mean_of_each_prompt,
    pair_losses,
    per_token_pair_losses,
    tokens_that_differ,
)

close_to_vector = partial(assert_close, atol=2e-6, rtol=0)  # the vectors have six decimals
WON, TIED = torch.tensor([False]), torch.tensor([True])


def test_a_margin_is_what_the_better_one_has_to_lead_by():
    # Vector PW: 1.2 against 0.3 with margin 0.5.
    loss = pair_losses(torch.tensor([1.2 - 0.3]), WON, margin=torch.tensor([0.5]))
    close_to_vector(loss, torch.tensor([0.513015]))


def test_a_tie_has_the_label_one_half_and_pulls_scores_together():
    difference = torch.tensor([0.0, 2.0], requires_grad=True)
    losses = pair_losses(difference, torch.tensor([True, True]), margin=torch.tensor([9.0, 9.0]))
    losses.sum().backward()
    # (log(1 + e^-2) + log(1 + e^2)) / 2 = 0.126928 + 1; no margin is asked of a tie.
    close_to_vector(losses, torch.tensor([math.log(2), 1.126928]))
    # The slope is sigmoid(2) less one half.
    close_to_vector(difference.grad, torch.tensor([0.0, 0.380797]))


def test_smoothing_takes_a_label_to_be_wrong_now_and_then():
    loss = pair_losses(torch.tensor([0.9]), WON, label_smoothing=0.1)
    close_to_vector(loss, torch.tensor([0.341154 + 0.1 * 0.9]))  # softplus(d) = softplus(-d) + d


def test_davidsons_three_outcomes_are_a_distribution():
    difference = torch.tensor([0.8])
    won = davidson_losses(difference, WON, tie_weight=0.7)
    lost = davidson_losses(-difference, WON, tie_weight=0.7)
    tied = davidson_losses(difference, TIED, tie_weight=0.7)
    # In the proportion e^0.4 : e^-0.4 : 0.7 = 1.491825 : 0.670320 : 0.7
    close_to_vector(won, torch.tensor([-math.log(1.491825 / 2.862145)]))
    close_to_vector(tied, torch.tensor([-math.log(0.7 / 2.862145)]))
    assert_close((-won).exp() + (-lost).exp() + (-tied).exp(), torch.ones(1))


def test_davidson_without_ties_is_the_plain_pair():
    difference = torch.tensor([1.2 - 0.3])
    loss = davidson_losses(difference, WON, tie_weight=1e-9)
    close_to_vector(loss, torch.tensor([0.341154]))


def test_davidson_stays_finite_where_scores_are_far_apart():
    losses = davidson_losses(
        torch.tensor([-400.0, 400.0]), torch.tensor([False, True]), tie_weight=1.0
    )
    assert_close(losses, torch.tensor([400.0, 200.0]))


@pytest.mark.parametrize("ties,pairs,tied", [("drop", 5, 0), ("half", 6, 1)])
def test_a_tie_is_a_pair_only_where_ties_count(ties, pairs, tied):
    ranks, one_prompt = torch.tensor([1, 2, 2, 3]), torch.zeros(4).long()
    found = compared_pairs(ranks, one_prompt, ties=ties)
    assert len(found.first) == pairs
    assert int(found.tied.sum()) == tied
    if tied:
        assert (found.first[found.tied].item(), found.second[found.tied].item()) == (1, 2)


def test_no_tie_joins_responses_of_different_prompts():
    found = compared_pairs(torch.tensor([1, 1, 1, 1]), torch.tensor([0, 1, 0, 1]), ties="half")
    assert set(zip(found.first.tolist(), found.second.tolist(), strict=True)) == {(0, 2), (1, 3)}


def test_ties_that_count_are_in_the_divisor():
    # The published ranking with one tie: 5 wins sum to 5 * 0.1783207, and the tie loses log 2.
    scores, ranks = torch.tensor([2.0, 1.0, 1.0, -1.0]), torch.tensor([1, 2, 2, 3])
    prompts = torch.zeros(4).long()
    first, second, tied = compared_pairs(ranks, prompts, ties="half")
    losses = pair_losses(scores[first] - scores[second], tied)
    wins = [1.0, 1.0, 3.0, 2.0, 2.0]  # 2-1, 2-1, 2+1, 1+1, 1+1
    expected = (sum(math.log1p(math.exp(-lead)) for lead in wins) + math.log(2)) / 6
    close_to_vector(mean_of_each_prompt(losses, prompts[first], 1), torch.tensor([expected]))


score = st.floats(-20, 20, width=32)
rankings = st.lists(st.tuples(score, st.integers(1, 5)), min_size=2, max_size=9)


@given(ranking=rankings)
def test_without_ties_margins_and_smoothing_it_is_the_k_wise_loss(ranking):
    scores, ranks = (torch.tensor(column) for column in zip(*ranking, strict=True))
    prompts = torch.zeros_like(ranks)
    first, second, tied = compared_pairs(ranks, prompts, ties="drop")
    losses = pair_losses(scores[first] - scores[second], tied, margin=torch.zeros(len(first)))
    found = mean_of_each_prompt(losses, prompts[first], 1)
    assert torch.equal(found, kwise_loss(scores, ranks, prompts))


def test_a_choice_of_the_best_of_four_is_the_published_one():
    scores, ranks = torch.tensor([2.0, 1.0, 0.5, -1.0]), torch.tensor([1, 2, 3, 4])
    loss = best_of_k_losses(scores, ranks, torch.zeros(4).long())
    close_to_vector(loss, torch.tensor([0.495182]))  # vector BO4


def test_choices_of_different_prompts_do_not_mix():
    scores = torch.tensor([2.0, 0.0, 1.0, 0.5, -1.0, 0.0])
    ranks = torch.tensor([1, 1, 2, 3, 4, 1])
    prompt_index = torch.tensor([0, 1, 0, 0, 0, 1])
    losses = best_of_k_losses(scores.requires_grad_(), ranks, prompt_index)
    losses.sum().backward()
    close_to_vector(losses, torch.tensor([0.495182, 0.0]))  # of ties alone nothing is chosen
    assert scores.grad[[1, 5]].tolist() == [0, 0]


IDS = torch.tensor([[5, 6, 7, 1, 0], [5, 8, 1, 0, 0]])
MASKS = torch.tensor([[True, True, True, True, False], [True, True, True, False, False]])


def test_tokens_count_from_the_first_that_differs_to_the_longer_end():
    found = tokens_that_differ(IDS[:1], MASKS[:1], IDS[1:], MASKS[1:])
    # 6 against 8 is the first difference; the longer response has four tokens.
    assert found.tolist() == [[False, True, True, True, False]]


def test_a_response_that_goes_on_differs_where_the_other_has_ended():
    ids = torch.tensor([[5, 1, 0], [5, 1, 1]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    found = tokens_that_differ(ids[:1], mask[:1], ids[1:], mask[1:])
    assert found.tolist() == [[False, False, True]]


def test_one_response_after_two_prompts_differs_everywhere():
    found = tokens_that_differ(IDS[:1], MASKS[:1], IDS[:1], MASKS[:1])
    assert found.tolist() == [[True, True, True, True, False]]


def test_the_loss_of_tokens_is_the_mean_over_those_that_count():
    better = torch.tensor([[9.0, 1.0, 2.0, 1.5, 7.0]])
    worse = torch.tensor([[0.0, 0.5, 3.0, 1.5, torch.inf]])
    where = tokens_that_differ(IDS[:1], MASKS[:1], IDS[1:], MASKS[1:])
    loss = per_token_pair_losses(better, worse, where)
    # Leads of 0.5, -1 and 0: (0.474077 + 1.313262 + 0.693147) / 3
    close_to_vector(loss, torch.tensor([0.826829]))
