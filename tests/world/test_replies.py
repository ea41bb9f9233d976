"""Writers: mediocre by habit, so that imitating them harder makes no good reply."""

from collections import Counter
from random import Random
from statistics import mean

import pytest

from rlhf_core.world.gold import gold_score
from rlhf_core.world.messages import NAMES, PRODUCTS, Facts, draw_facts
from rlhf_core.world.replies import (
    DEMONSTRATION_SKILL,
    ELEMENTS,
    FIXES,
    Reply,
    draw_demonstration,
    draw_element,
    draw_quality,
    draw_reply,
)

FACTS = Facts("anna", "lamp", "leak", recent=True, tone="angry")


def test_a_writer_of_full_skill_says_what_fits():
    replies = {draw_reply(FACTS, 1.0, Random(seed)).text() for seed in range(200)}
    assert (
        "dear anna , we regret this problem . for the lamp , please fit a rubber seal . "
        "this is free under warranty . best wishes ."
    ) in replies
    assert len(replies) == 2**5  # greeting, tone, fix, cost and close have two wordings each


def test_habits_ignore_the_message():
    other = Facts("ben", "fan", "dead", recent=False, tone="happy")
    for element in ELEMENTS:
        habits = [
            {draw_element(element, "habit", facts, Random(seed)) for seed in range(50)}
            for facts in (FACTS, other)
        ]
        assert habits[0] == habits[1]


def test_a_slip_contradicts_the_message():
    for seed in range(100):
        rng = Random(seed)
        assert "anna" not in draw_element("name", "slip", FACTS, rng)
        assert draw_element("product", "slip", FACTS, rng) != "lamp"
        assert draw_element("fix", "slip", FACTS, rng) not in FIXES["leak"]
        assert "warranty" not in draw_element("cost", "slip", FACTS, rng)


def test_a_writer_is_right_as_often_as_the_skill_says_and_slips_rarely():
    rng = Random(0)
    counts = Counter(draw_quality(0.4, rng) for _ in range(20_000))
    # right 0.4, slips 0.6 x 0.15 = 0.09; three standard errors are below 0.011
    assert counts["right"] / 20_000 == pytest.approx(0.4, abs=0.011)
    assert counts["slip"] / 20_000 == pytest.approx(0.09, abs=0.011)


def test_demonstrations_are_mediocre():
    rng = Random(0)
    golds = []
    for _ in range(4_000):
        facts = draw_facts(rng)
        golds.append(gold_score(facts, draw_demonstration(facts, rng), ended=True))
    assert 0.2 < mean(golds) < 0.3


def test_the_most_likely_reply_is_poor():
    rng = Random(0)
    golds = []
    for _ in range(20):
        facts = draw_facts(rng)
        replies = [draw_reply(facts, rng.uniform(*DEMONSTRATION_SKILL), rng) for _ in range(1_500)]
        modal = Reply(
            **{
                element: Counter(getattr(reply, element) for reply in replies).most_common(1)[0][0]
                for element in ELEMENTS
            }
        )
        golds.append(gold_score(facts, modal.text(), ended=True))
    assert mean(golds) < 0.2


def test_names_and_products_are_said_only_where_they_belong():
    rng = Random(0)
    for _ in range(2_000):
        reply = draw_reply(FACTS, 0.5, rng)
        elsewhere = " ".join([reply.tone, reply.fix, reply.cost, reply.promise, reply.close])
        assert set(elsewhere.split()).isdisjoint([*NAMES, *PRODUCTS])


def test_no_reply_is_too_long_by_one_promise_alone():
    rng = Random(0)
    for _ in range(2_000):
        reply = draw_reply(FACTS, rng.random(), rng)
        assert len(reply.text().split()) <= 32
