"""Replies to rank, and noisy labellers who rank them.

A ranking's replies come from independent writers, or are edits of one writer's reply: then most
words are shared, and only what fits the message tells good from bad. A few are careless, so that
the labels also cover broken text.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from random import Random
from typing import Literal

from rlhf_core.world.gold import gold_score
from rlhf_core.world.messages import Facts
from rlhf_core.world.replies import ELEMENTS, Quality, Reply, draw_element, draw_reply

RANKED_SKILL = (0.1, 0.95)
"""Skills of the writers of ranked replies are uniform between these."""
EDITED_SHARE = 0.5
"""Share of the rankings whose replies are edits of one reply."""
EDITED_SKILL = (0.5, 1.0)
"""Skill of the writer of the reply that is edited."""
TWO_EDITS_SHARE = 0.5
"""Share of the edits that change two elements; the others change one."""
EDIT_WEIGHTS = {
    "name": 1.0,
    "tone": 1.5,
    "product": 1.0,
    "fix": 2.5,
    "cost": 2.0,
    "promise": 0.5,
    "close": 0.5,
}
"""How often an edit changes each element, in proportion."""
EDIT_QUALITIES: dict[Quality, float] = {"right": 0.4, "habit": 0.25, "slip": 0.35}
"""What an edit makes of an element, in proportion."""
CARELESS_SHARE = 0.08
"""Share of the ranked replies that are careless."""
LABEL_NOISE = 0.22
"""A labeller prefers one reply with probability sigmoid(difference in gold / this)."""

Carelessness = Literal["cut", "first_sentences", "repeated", "shuffled", "very_short"]
CARELESSNESSES: tuple[Carelessness, ...] = (
    "cut",
    "first_sentences",
    "repeated",
    "shuffled",
    "very_short",
)
VERY_SHORT_REPLIES = ("hello .", "thank you .", "kind regards .", "ok .", "best wishes .")


def draw_ranked_replies(facts: Facts, count: int, rng: Random) -> list[str]:
    """As many different replies to one message."""
    base = None
    if rng.random() < EDITED_SHARE:
        base = draw_reply(facts, rng.uniform(*EDITED_SKILL), rng)
    replies: list[str] = []
    while len(replies) < count:
        if base is None:
            reply = draw_reply(facts, rng.uniform(*RANKED_SKILL), rng)
        else:
            reply = edit_reply(base, facts, rng)
        careless = rng.random() < CARELESS_SHARE
        text = draw_careless_reply(reply, rng) if careless else reply.text()
        if text not in replies:
            replies.append(text)
    return replies


def edit_reply(reply: Reply, facts: Facts, rng: Random) -> Reply:
    """The reply with one or two elements written anew: corrected, spoiled, or only reworded."""
    qualities, weights = list(EDIT_QUALITIES), list(EDIT_QUALITIES.values())
    for _ in range(2 if rng.random() < TWO_EDITS_SHARE else 1):
        element = rng.choices(ELEMENTS, [EDIT_WEIGHTS[element] for element in ELEMENTS])[0]
        quality = rng.choices(qualities, weights)[0]
        reply = replace(reply, **{element: draw_element(element, quality, facts, rng)})
    return reply


def draw_careless_reply(reply: Reply, rng: Random) -> str:
    """What becomes of a reply that is sent without a second look."""
    sentences = reply.sentences()
    match rng.choice(CARELESSNESSES):
        case "cut":
            words = reply.text().split()
            return " ".join(words[: rng.randint(1, len(words) - 1)])
        case "first_sentences":
            return " ".join(sentences[: rng.randint(1, 2)])
        case "repeated":
            place = rng.randrange(len(sentences))
            repetitions = rng.randint(1, 3)
            return " ".join(
                sentences[:place] + [sentences[place]] * repetitions + sentences[place:]
            )
        case "shuffled":
            while (shuffled := rng.sample(sentences, len(sentences))) == sentences:
                pass
            return " ".join(shuffled)
        case "very_short":
            return rng.choice(VERY_SHORT_REPLIES)


def draw_ranks(facts: Facts, replies: Sequence[str], rng: Random) -> list[int]:
    """Rank each reply, 1 the best, as a Plackett-Luce labeller does who half sees the gold score.

    Sorting gold / noise + Gumbel noise draws from Plackett-Luce (Yellott 1977), so that a pair is
    ordered as Bradley-Terry has it.
    """
    utilities = [
        gold_score(facts, reply, ended=True) / LABEL_NOISE - math.log(-math.log(_uniform(rng)))
        for reply in replies
    ]
    best_first = sorted(range(len(replies)), key=lambda place: -utilities[place])
    ranks = [0] * len(replies)
    for rank, place in enumerate(best_first, start=1):
        ranks[place] = rank
    return ranks


def expected_agreement(golds: Sequence[Sequence[float]]) -> float:
    """The chance that a label orders a pair as gold does, over the pairs with different gold."""
    differences = [
        abs(left - right)
        for ranking in golds
        for left, right in combinations(ranking, 2)
        if left != right
    ]
    agreements = [1 / (1 + math.exp(-difference / LABEL_NOISE)) for difference in differences]
    return sum(agreements) / len(agreements)


def label_ceiling(golds: Sequence[Sequence[float]], ranks: Sequence[Sequence[int]]) -> float:
    """The accuracy on these rankings of one who knows gold.

    It is the share of the labelled pairs that gold orders as the label does. Where gold is equal,
    a guess is right half the time; a label that ties a pair says nothing about it.
    """
    hits = [
        0.5 if first[0] == second[0] else float((first[0] > second[0]) == (first[1] < second[1]))
        for ranking_golds, ranking_ranks in zip(golds, ranks, strict=True)
        for first, second in combinations(zip(ranking_golds, ranking_ranks, strict=True), 2)
        if first[1] != second[1]
    ]
    return sum(hits) / len(hits)


def _uniform(rng: Random) -> float:
    """Uniform on the open interval, so that its logarithm's logarithm is finite."""
    while not (value := rng.random()):
        pass
    return value
