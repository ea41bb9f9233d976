"""Ranked replies, and labels that agree with the gold score as often as people agree."""

from itertools import combinations
from random import Random

import pytest

from rlhf_core.world import rankings
from rlhf_core.world.gold import gold_score
from rlhf_core.world.messages import Facts, draw_facts
from rlhf_core.world.rankings import (
    VERY_SHORT_REPLIES,
    draw_careless_reply,
    draw_ranked_replies,
    draw_ranks,
    edit_reply,
    expected_agreement,
    label_ceiling,
)
from rlhf_core.world.replies import ELEMENTS, draw_reply

FACTS = Facts("anna", "lamp", "leak", recent=True, tone="angry")
PERFECT = (
    "hello anna , sorry for the trouble . for the lamp , please replace the seal . "
    "the warranty covers it . kind regards ."
)


@pytest.fixture(scope="module")
def drawn() -> tuple[list[list[float]], list[list[int]]]:
    """Gold scores and ranks of many rankings of four."""
    rng = Random(0)
    golds, ranks = [], []
    for _ in range(2_000):
        facts = draw_facts(rng)
        replies = draw_ranked_replies(facts, 4, rng)
        golds.append([gold_score(facts, reply, ended=True) for reply in replies])
        ranks.append(draw_ranks(facts, replies, rng))
    return golds, ranks


def test_labels_agree_with_gold_in_75_to_80_percent_of_the_pairs(drawn):
    golds, ranks = drawn
    assert 0.75 < expected_agreement(golds) < 0.80
    pairs_apart = [
        (ranking[first] > ranking[second]) == (labels[first] < labels[second])
        for ranking, labels in zip(golds, ranks, strict=True)
        for first, second in combinations(range(4), 2)
        if ranking[first] != ranking[second]
    ]
    # about 11,000 pairs, six to a ranking: three standard errors are below 0.02
    seen = sum(pairs_apart) / len(pairs_apart)
    assert seen == pytest.approx(expected_agreement(golds), abs=0.02)


def test_the_ceiling_counts_the_labels_that_gold_explains():
    # pairs 0-1 agrees, 0-2 agrees, 1-2 is equal in gold: (1 + 1 + 0.5) / 3
    assert label_ceiling([[0.9, 0.5, 0.5]], [[1, 2, 3]]) == pytest.approx(2.5 / 3)
    # 0-1 disagrees, the second ranking is a tie and says nothing
    assert label_ceiling([[0.9, 0.5], [0.1, 0.2]], [[2, 1], [1, 1]]) == 0.0


def test_agreement_is_the_bradley_terry_probability():
    # a difference of one noise: 1 / (1 + e^-1) = 0.731; equal gold counts for nothing
    assert expected_agreement([[0.5, 0.72], [0.3, 0.3]]) == pytest.approx(0.7310585786)


def test_a_pair_is_labelled_by_the_logistic_law():
    replies = [PERFECT, PERFECT.replace("the warranty covers it . ", "")]  # gold 1.0 and 0.8
    rng = Random(0)
    wins = sum(draw_ranks(FACTS, replies, rng) == [1, 2] for _ in range(8_000))
    # 1 / (1 + e^(-0.2 / 0.22)) = 0.7128; three standard errors are 0.0152
    assert wins / 8_000 == pytest.approx(0.7128, abs=0.0152)


def test_ranks_count_from_one_and_never_tie(drawn):
    assert all(sorted(ranking) == [1, 2, 3, 4] for ranking in drawn[1])


def test_replies_of_a_ranking_differ():
    rng = Random(0)
    for count in (2, 4, 9):
        for _ in range(100):
            assert len(set(draw_ranked_replies(draw_facts(rng), count, rng))) == count


def test_an_edit_changes_two_elements_at_most():
    rng = Random(0)
    for _ in range(500):
        reply = draw_reply(FACTS, 0.6, rng)
        edited = edit_reply(reply, FACTS, rng)
        changed = [name for name in ELEMENTS if getattr(reply, name) != getattr(edited, name)]
        assert len(changed) <= 2


def test_edits_share_most_of_their_words(monkeypatch):
    monkeypatch.setattr(rankings, "EDITED_SHARE", 1.0)
    monkeypatch.setattr(rankings, "CARELESS_SHARE", 0.0)
    greetings = [
        {reply.split()[0] for reply in draw_ranked_replies(FACTS, 4, Random(seed))}
        for seed in range(200)
    ]
    # four independent writers greet alike in one ranking of eight: 25 of 200
    assert sum(len(words) == 1 for words in greetings) > 100


def test_careless_replies_are_bad():
    rng = Random(0)
    golds = []
    for _ in range(1_000):
        text = draw_careless_reply(draw_reply(FACTS, 1.0, rng), rng)
        golds.append(gold_score(FACTS, text, ended=True))
    assert max(golds) <= 0.9  # a cut of the close alone is the mildest
    assert sum(golds) / len(golds) < 0.35


def test_very_short_replies_are_among_the_ranked_ones():
    rng = Random(0)
    replies = [reply for _ in range(500) for reply in draw_ranked_replies(FACTS, 4, rng)]
    short = sum(reply in VERY_SHORT_REPLIES for reply in replies) / len(replies)
    assert 0.005 < short < 0.04  # a fifth of the careless 0.08
