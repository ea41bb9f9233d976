"""From judged answers to figures, on three prompts."""

import pytest

from rlhf_core.evaluation.answers import Answers, JudgedAnswers, picked
from rlhf_core.evaluation.findings import above
from rlhf_core.evaluation.results import Bootstrap, frontier, win_rate
from rlhf_core.statistics import Interval

BOOTSTRAP = Bootstrap(samples=200, seed=1)


def judged(rows, scores, *, golds=None, lengths=None, loglikelihoods=None):
    ids = [[7] * length for length in lengths or [3] * len(rows)]
    count = len(rows)
    answers = Answers(rows, ids, ["x"] * count, [True] * count, loglikelihoods or [0.0] * count)
    return JudgedAnswers(answers, scores, golds)


def test_the_gold_score_decides_where_there_is_one():
    ours = judged([0, 1, 2], [9.0, 9.0, 9.0], golds=[0.1, 0.5, 0.9])
    theirs = judged([0, 1, 2], [1.0, 1.0, 1.0], golds=[0.4, 0.5, 0.1])

    found = win_rate(ours, theirs, BOOTSTRAP)

    assert found.rate.mean == pytest.approx((0 + 0.5 + 1) / 3)
    assert found.lead.mean == pytest.approx((-0.3 + 0 + 0.8) / 3)
    assert found.ties == pytest.approx(1 / 3)


def test_without_gold_the_reward_model_decides():
    found = win_rate(judged([0, 1], [2.0, 1.0]), judged([0, 1], [1.0, 0.0]), BOOTSTRAP)

    assert found.rate == Interval(1.0, 1.0, 1.0)


def test_answers_are_compared_with_the_rivals_answer_to_the_same_prompt():
    ours = judged([0, 1, 2, 3], [0.0, 5.0, 0.0, 1.0])
    theirs = judged([3, 1], [2.0, 4.0])  # prompt 3: 1 < 2, prompt 1: 5 > 4

    found = win_rate(ours, theirs, BOOTSTRAP)

    assert found.pairs == 2
    assert found.rate.mean == 0.5


def test_the_win_rate_at_similar_length_leaves_out_the_other_pairs():
    rows = list(range(12))
    # ten pairs of 20 and 19 tokens, of which six are won, and two won by being long
    ours = judged(rows, [1.0] * 6 + [0.0] * 4 + [1.0] * 2, lengths=[20] * 10 + [40] * 2)
    theirs = judged(rows, [0.0] * 6 + [1.0] * 4 + [0.0] * 2, lengths=[19] * 10 + [10] * 2)

    found = win_rate(ours, theirs, BOOTSTRAP)

    assert found.rate.mean == pytest.approx(8 / 12)
    assert found.similar_length is not None
    assert found.similar_length.mean == pytest.approx(6 / 10)


def test_best_of_n_picks_one_answer_per_prompt_by_the_grades_given():
    many = judged(
        [0, 0, 1, 1],
        [0.2, 0.9, 0.4, 0.3],
        golds=[0.1, 0.2, 0.3, 0.4],
        loglikelihoods=[-1.0, -9.0, -5.0, -2.0],
    )

    assert picked(many, many.scores).golds == [0.2, 0.3]
    assert picked(many, many.answers.loglikelihoods).golds == [0.1, 0.4]


def test_the_frontier_runs_from_a_plain_sample_to_best_of_n():
    many = judged([0, 0, 1, 1], [0.0, 1.0, 3.0, 2.0], golds=[0.5, 0.1, 0.2, 0.8])

    plain, best = frontier(many, 2)

    assert (plain.k, best.k) == (1, 2)
    assert plain.score == pytest.approx((0 + 1 + 3 + 2) / 4)
    assert best.score == pytest.approx((1 + 3) / 2)
    assert plain.gold == pytest.approx((0.5 + 0.1 + 0.2 + 0.8) / 4)
    assert best.gold == pytest.approx((0.1 + 0.2) / 2)  # the higher score, not the higher gold


def test_a_claim_whose_interval_lies_on_both_sides_of_the_bar_stays_open():
    assert above(Interval(0.6, 0.55, 0.7), 0.5) is True
    assert above(Interval(0.6, 0.45, 0.7), 0.5) is None
    assert above(Interval(0.4, 0.35, 0.45), 0.5) is False
