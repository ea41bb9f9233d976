import pytest

from rlhf_core.repetition import distinct_share, repeated_share, repetition


def test_a_response_that_goes_round_in_circles_repeats_nearly_all_its_ngrams():
    circle = [5, 6, 7] * 20  # 57 4-grams, of which 3 are different
    assert repeated_share([circle], 4) == pytest.approx(54 / 57)
    assert repeated_share([list(range(60))], 4) == 0
    # 57 of each: the mean is over n-grams, not over responses
    assert repeated_share([circle, list(range(60))], 4) == pytest.approx(54 / 114)


def test_what_two_responses_share_is_not_a_repetition_but_not_distinct_either():
    same = [[1, 2, 3, 4, 5]] * 2
    assert repeated_share(same, 4) == 0
    assert distinct_share(same, 1) == 0.5
    assert distinct_share(same, 2) == 0.5


def test_the_end_counts_for_the_length_alone():
    found = repetition([[4, 4, 4, 4, 4, 1], [5]], end_token_ids=[1])
    assert found == {
        "repeated_4grams": 0.5,  # 4444 twice
        "distinct_1grams": pytest.approx(2 / 6),
        "distinct_2grams": pytest.approx(1 / 4),
        "ended_share": 0.5,
        "response_tokens": 3.5,
    }


def test_responses_too_short_for_an_ngram_repeat_nothing():
    assert repetition([[1], [3, 1]], end_token_ids=[1])["repeated_4grams"] == 0
    assert distinct_share([[1]], 2) == 0
