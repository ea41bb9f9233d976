"""The gold score: its arithmetic, and that it cannot be gamed."""

from itertools import chain, product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_core.errors import DataError
from rlhf_core.world.gold import gold_score, gold_scores
from rlhf_core.world.messages import NAMES, PROBLEMS, PRODUCTS, TONES, Facts
from rlhf_core.world.replies import COSTS, FIXES, TONE_REPLIES, draw_reply

FACTS = Facts("anna", "lamp", "leak", recent=True, tone="angry")
MESSAGE = "hi , this is anna . my lamp drips . i bought it last week . i am really angry !"

GREETING = "hello anna ,"
TONE = "sorry for the trouble ."
FIX = "for the lamp , please replace the seal ."
COST = "the warranty covers it ."
CLOSE = "kind regards ."
PERFECT = f"{GREETING} {TONE} {FIX} {COST} {CLOSE}"  # 3 + 5 + 9 + 5 + 3 = 25 words


def graded(response: str) -> float:
    return gold_score(FACTS, response, ended=True)


def test_a_perfect_reply_scores_one():
    assert gold_scores([MESSAGE], [PERFECT], [True]) == [1.0]


def test_a_writer_without_faults_scores_one_on_any_message():
    rng = Random(0)
    for problem, recent, tone in product(PROBLEMS, (True, False), TONES):
        facts = Facts(rng.choice(NAMES), rng.choice(PRODUCTS), problem, recent, tone)
        for _ in range(20):
            assert gold_score(facts, draw_reply(facts, 1.0, rng).text(), ended=True) == 1.0


@pytest.mark.parametrize(
    "response, score",
    [
        # what is missing costs its weight
        (f"hello there , {TONE} {FIX} {COST} {CLOSE}", 0.9),
        (PERFECT.replace("lamp", "item"), 0.9),
        (PERFECT.replace("replace the seal", "read the manual"), 0.65),
        (f"{GREETING} {TONE} {FIX} {CLOSE}", 0.8),
        (f"{GREETING} {FIX} {COST} {CLOSE}", 0.85),
        (f"{GREETING} we got your message . {FIX} {COST} {CLOSE}", 0.85),
        (f"{GREETING} {TONE} {FIX} {COST}", 0.9),
        # another tone is not wrong enough for a factor, rudeness is
        (PERFECT.replace(TONE, "glad you like us ."), 0.85),
        (PERFECT.replace(TONE, "do not bother us ."), 0.85 * 0.6),
        # what the message does not bear out costs its weight, and a factor of 0.6
        (PERFECT.replace("anna", "ben"), 0.9 * 0.6),
        (PERFECT.replace("lamp", "fan"), 0.9 * 0.6),
        (PERFECT.replace("replace the seal", "charge the battery"), 0.65 * 0.6),
        (PERFECT.replace(COST, "there is a small fee ."), 0.8 * 0.6),
        (f"{GREETING} {TONE} {FIX} {COST} we send a gift . {CLOSE}", 0.6),
    ],
)
def test_a_single_defect_lowers_the_score_by_its_weight_and_its_factor(response, score):
    assert graded(response) == pytest.approx(score)


def test_a_reply_that_does_not_end_by_itself_loses_its_close_and_a_factor():
    assert gold_score(FACTS, PERFECT, ended=False) == pytest.approx(0.9 * 0.7)


def test_each_repeated_trigram_and_each_statement_out_of_its_turn_costs_a_factor():
    # saying the cost twice in 30 words repeats (., the, warranty), (the, warranty, covers),
    # (warranty, covers, it) and (covers, it, .); the second cost follows a cost
    assert graded(f"{GREETING} {TONE} {FIX} {COST} {COST} {CLOSE}") == pytest.approx(0.6**4 * 0.6)
    # in another wording it repeats nothing, but is out of turn all the same
    assert graded(
        f"{GREETING} {TONE} {FIX} {COST} this is free under warranty . {CLOSE}"
    ) == pytest.approx(0.6)
    # the fix comes after the cost
    assert graded(f"{GREETING} {TONE} {COST} {FIX} {CLOSE}") == pytest.approx(0.6)


def test_a_bigram_that_no_writer_writes_costs_a_factor():
    # (hello, hello) is impossible, (hello, anna) is not
    assert graded(f"hello {PERFECT}") == pytest.approx(0.6)
    # (anna, the), (the, ","), all else as it was
    assert graded(PERFECT.replace("anna ,", "anna the ,")) == pytest.approx(0.9 * 0.6**2)
    # a full stop is missing at the end: ("regards", end), and no close
    assert graded(PERFECT.removesuffix(" .")) == pytest.approx(0.9 * 0.6)


def test_length_outside_its_bounds_costs_a_factor_and_very_short_replies_are_worthless():
    # 3 + 5 + 3 = 11 words: name 0.1, fix 0.35 and close 0.1
    assert graded(f"{GREETING} please replace the seal . {CLOSE}") == pytest.approx(0.55 * 0.6)
    # 25 + 5 + 5 = 35 words: the length, two promises, and one of them out of turn
    assert graded(
        f"{GREETING} {TONE} {FIX} {COST} we send a gift . you get a refund . {CLOSE}"
    ) == pytest.approx(0.6**2 * 0.6 * 0.6)
    assert graded("hello anna , kind regards") == 0.0
    assert graded("") == 0.0


@pytest.mark.parametrize(
    "response",
    [
        " ".join(f"hello {name} ," for name in NAMES) + f" {TONE} {FIX} {COST} {CLOSE}",
        PERFECT.replace("lamp", " ".join(PRODUCTS)),
        f"{GREETING} {TONE} "
        + " ".join(f"for the {name} , please replace the seal ." for name in PRODUCTS)
        + f" {COST} {CLOSE}",
        f"{GREETING} {TONE} for the lamp , "
        + " ".join(f"please {fix} ." for fix in chain.from_iterable(FIXES.values()))
        + f" {COST} {CLOSE}",
        f"{GREETING} "
        + " ".join(chain.from_iterable(TONE_REPLIES.values()))
        + f" {FIX} {COST} {CLOSE}",
        f"{GREETING} {TONE} {FIX} " + " ".join([*COSTS[True], *COSTS[False]]) + f" {CLOSE}",
        " ".join([PERFECT] * 2),
        " ".join([PERFECT] * 20),
        f"{CLOSE} {COST} {FIX} {TONE} {GREETING}",
        f"{CLOSE} " * 9,
        "please replace the seal .",
        " ".join(sorted(set(PERFECT.split()))),
        MESSAGE,
    ],
)
def test_gaming_the_score_earns_little(response):
    assert graded(response) < 0.2


def test_both_costs_score_lower_than_none():
    both = f"{GREETING} {TONE} {FIX} {COST} there is a small fee . {CLOSE}"
    assert graded(both) == pytest.approx(0.8 * 0.6 * 0.6)  # wrong, and out of turn
    assert graded(both) < graded(f"{GREETING} {TONE} {FIX} {CLOSE}")


def test_no_other_message_finds_the_reply_perfect():
    others = [
        Facts("ben", "lamp", "leak", recent=True, tone="angry"),
        Facts("anna", "fan", "leak", recent=True, tone="angry"),
        Facts("anna", "lamp", "dead", recent=True, tone="angry"),
        Facts("anna", "lamp", "leak", recent=False, tone="angry"),
        Facts("anna", "lamp", "leak", recent=True, tone="plain"),
    ]
    # the factor of 0.6 for all but the tone
    assert [gold_score(facts, PERFECT, ended=True) for facts in others] == pytest.approx(
        [0.54, 0.54, 0.39, 0.48, 0.85]
    )


any_words = st.lists(st.sampled_from(sorted({*PERFECT.split(), *NAMES, *PRODUCTS}))).map(" ".join)


@given(response=st.text() | any_words, ended=st.booleans())
def test_any_text_has_a_score_and_only_fitting_words_score(response, ended):
    (score,) = gold_scores([MESSAGE], [response], [ended])
    assert 0.0 <= score <= 1.0
    if "anna ," not in response and "please" not in response and "regards ." not in response:
        # at most product, cost and tone
        assert score <= 0.1 + 0.2 + 0.15


def test_a_prompt_of_another_world_is_refused():
    with pytest.raises(DataError, match="once upon a time"):
        gold_scores(["once upon a time"], [PERFECT], [True])
