"""A message states its facts so that they can be read back."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_core.errors import DataError
from rlhf_core.world.messages import (
    AGE_WORDINGS,
    DISTINCT_MESSAGES,
    INTRODUCTIONS,
    NAMES,
    PROBLEM_WORDINGS,
    PROBLEMS,
    PRODUCTS,
    SIGNATURES,
    TONE_WORDINGS,
    TONES,
    Facts,
    draw_facts,
    read_message,
    write_message,
)

any_facts = st.builds(
    Facts,
    name=st.sampled_from(NAMES),
    product=st.sampled_from(PRODUCTS),
    problem=st.sampled_from(PROBLEMS),
    recent=st.booleans(),
    tone=st.sampled_from(TONES),
)


@given(facts=any_facts, seed=st.integers())
def test_reading_a_message_gives_back_its_facts(facts, seed):
    assert read_message(write_message(facts, Random(seed))) == facts


def test_a_message_reads_as_a_person_would_read_it():
    text = "this is not acceptable ! my lamp drips . it is quite old now . thanks , leo ."
    assert read_message(text) == Facts("leo", "lamp", "leak", recent=False, tone="angry")


def test_every_wording_stands_for_one_fact():
    wordings = [
        *INTRODUCTIONS,
        *SIGNATURES,
        *(
            wording
            for wordings in (PROBLEM_WORDINGS, AGE_WORDINGS, TONE_WORDINGS)
            for texts in wordings.values()
            for wording in texts
        ),
    ]
    assert len(wordings) == len(set(wordings))


def test_names_and_products_appear_in_no_wording():
    words = {
        word
        for wordings in (PROBLEM_WORDINGS, AGE_WORDINGS, TONE_WORDINGS)
        for texts in wordings.values()
        for text in texts
        for word in text.split()
    }
    assert words.isdisjoint([*NAMES, *PRODUCTS])


def test_messages_hardly_ever_repeat_themselves():
    # 24 names, 20 products, 10 x 3 problems, 2 x 3 ages, 3 x 3 tones, 4 names' places, 6 orders
    assert DISTINCT_MESSAGES == 24 * 20 * 30 * 6 * 9 * 4 * 6
    rng = Random(0)
    messages = [write_message(draw_facts(rng), rng) for _ in range(5_000)]
    assert len(set(messages)) > 4_990


def test_words_are_lower_case_and_separated_by_single_spaces():
    rng = Random(1)
    for _ in range(200):
        message = write_message(draw_facts(rng), rng)
        assert message == message.lower() == " ".join(message.split())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "what is the capital of france ?",
        "my lamp drips . it is quite old now . thanks , leo .",
        "what can i do ? my lamp drips . it is quite old now . thanks , leo . my fan drips .",
        "what can i do ? my lamp drips . it is quite old now . leo .",
    ],
)
def test_text_that_is_no_message_is_refused_by_name(text):
    with pytest.raises(DataError, match="is not a message of the support desk"):
        read_message(text)
