from random import Random

from rlhf_core.labelers.sentiment import happiness, sentences_of
from rlhf_core.labelers.support_desk import gold
from rlhf_core.world.gold import gold_scores
from rlhf_core.world.messages import draw_facts, write_message


def test_a_glad_story_is_happier_than_a_sad_one():
    sad = "The cat was lost. She cried and was very afraid."
    glad = "The cat was happy. She smiled and loved her kind friend."
    plain = "The cat sat on the mat. It was a Tuesday."
    scores = happiness([""] * 3, [sad, glad, plain])
    assert scores[0] < scores[2] < scores[1]


def test_repeating_a_happy_sentence_makes_nothing_happier():
    once, often = happiness(["", ""], ["She was happy.", "She was happy. " * 20])
    assert once == often


def test_sentences_end_where_their_marks_do():
    assert sentences_of('He said "Hi!" She ran. Why?') == ['He said "Hi!"', "She ran.", "Why?"]
    assert sentences_of("no end") == ["no end"]
    assert sentences_of("") == [""]


def test_the_labeler_of_the_desk_gives_the_gold_score_of_a_finished_reply():
    prompt = write_message(draw_facts(Random(1)), Random(2))
    reply = "Hello ."
    assert gold([prompt], [reply]) == list(gold_scores([prompt], [reply], [True]))
