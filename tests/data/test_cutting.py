"""Prompts over their budget lose what stands furthest from the answer, and never their end."""

from hypothesis import given
from hypothesis import strategies as st

from rlhf_core.data.cutting import cut_prompt


def at_most(words: int):
    return lambda text: len(text.split()) <= words


def test_whole_paragraphs_go_from_the_end_until_it_fits():
    prompt = "one two\n\nthree four five\nsix seven"
    assert cut_prompt(prompt, at_most(9)) == prompt
    assert cut_prompt(prompt, at_most(6)) == "one two\n\nthree four five"
    assert cut_prompt(prompt, at_most(4)) == "one two"


def test_where_one_paragraph_is_left_its_last_characters_go():
    # After "one t" comes what no longer fits; a half word is what detail S3 cuts down to.
    assert cut_prompt("one two three\nfour", lambda text: len(text) <= 5) == "one t"


def test_a_prompt_of_which_nothing_fits_is_not_cut_to_nothing():
    assert cut_prompt("one two", lambda text: False) is None


def test_a_dialogue_loses_its_oldest_exchanges_and_keeps_its_system_text_and_its_end():
    prompt = "Be kind.\n\nHuman: a b\n\nAssistant: c d\n\nHuman: e f g\nh i\n\nAssistant:"
    last = "Be kind.\n\nHuman: e f g\nh i\n\nAssistant:"
    assert cut_prompt(prompt, at_most(12)) == last
    assert cut_prompt(prompt, at_most(8)) == "Be kind.\n\nHuman: e f g\n\nAssistant:"


@given(
    prompt=st.text("ab \n", min_size=1).filter(str.strip),
    limit=st.integers(0, 12),
)
def test_what_is_cut_fits_and_is_a_beginning_of_the_prompt(prompt, limit):
    cut = cut_prompt(prompt, lambda text: len(text) <= limit)
    if cut is None:
        assert limit == 0 or not prompt[:limit].strip()
    else:
        assert len(cut) <= limit
        assert prompt.startswith(cut)
