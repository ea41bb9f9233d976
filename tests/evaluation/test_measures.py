"""What is measured on responses, against numbers that were worked out by hand."""

import math
from itertools import combinations

import pytest

from rlhf_core.evaluation.measures import (
    best_index,
    best_of_k_mean,
    best_of_n_kl,
    distinct_ngram_share,
    distinct_share,
    of_similar_length,
    win_points,
)


def test_a_tie_counts_half():
    assert win_points([0.9, 0.5, 0.1], [0.2, 0.5, 0.8]) == [1.0, 0.5, 0.0]


def test_lengths_are_similar_up_to_a_tenth_of_the_longer():
    # |18 - 20| = 2 <= 2.0; |17 - 20| = 3 > 2.0; both ways round
    assert of_similar_length([18, 17, 20, 20], [20, 20, 18, 17]) == [True, False, True, False]


def test_distinct_ngrams_are_counted_over_all_responses_together():
    responses = [[1, 2, 1, 2], [1, 2, 3]]
    # tokens: 1 2 1 2 1 2 3 -> {1, 2, 3} of 7
    assert distinct_ngram_share(responses, 1) == pytest.approx(3 / 7)
    # bigrams: 12 21 12 | 12 23 -> {12, 21, 23} of 5; none crosses from one response to the next
    assert distinct_ngram_share(responses, 2) == pytest.approx(3 / 5)
    # trigrams: 121 212 | 123, all different
    assert distinct_ngram_share(responses, 3) == 1.0


def test_there_is_no_share_of_ngrams_longer_than_every_response():
    assert distinct_ngram_share([[1, 2], [3]], 3) is None


def test_equal_responses_are_one_distinct_response():
    assert distinct_share([[1, 2], [1, 2], [2, 1], []]) == 3 / 4


def test_best_of_n_takes_the_first_of_the_highest():
    assert best_index([0.1, 0.7, 0.7, -1.0]) == 1


def test_best_of_k_is_the_mean_over_every_choice_of_k():
    grades, values = [0.3, 0.9, 0.1, 0.5], [10.0, 20.0, 40.0, 80.0]

    for k in (1, 2, 3, 4):
        choices = list(combinations(range(4), k))
        picked = [values[max(choice, key=lambda index: grades[index])] for choice in choices]
        assert best_of_k_mean(grades, values, k) == pytest.approx(sum(picked) / len(picked))


def test_best_of_one_is_a_plain_sample():
    # every response is the best of itself alone: (2 + 4 + 9) / 3
    assert best_of_k_mean([0.0, 5.0, 1.0], [2.0, 4.0, 9.0], 1) == pytest.approx(5.0)


def test_best_of_n_costs_what_the_formula_says():
    assert best_of_n_kl(1) == 0.0
    # ln 16 = 2.7726, 15 / 16 = 0.9375
    assert best_of_n_kl(16) == pytest.approx(1.8351, abs=1e-4)
    # two equally likely responses of which the better is always taken would cost ln 2 at most
    assert best_of_n_kl(2) < math.log(2)
