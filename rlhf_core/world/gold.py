"""The gold score: how good a reply is, which only the generator and the evaluation may see.

    gold = (sum of the weights of what is right) * (product of the factors of what is amiss)

A statement counts as right only when nothing in the reply contradicts it, so naming every product
or both costs earns nothing. Replies are any text at all: a model wrote them.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, combinations, pairwise
from typing import NamedTuple

from rlhf_core.world.messages import NAMES, PRODUCTS, Facts, read_message
from rlhf_core.world.replies import (
    CLOSES,
    COSTS,
    FIXES,
    GREETINGS,
    NEUTRAL_REPLIES,
    PROMISES,
    RUDE_REPLIES,
    TONE_REPLIES,
    VAGUE_FIXES,
    VAGUE_PRODUCT,
)

NAME_WEIGHT = 0.1
PRODUCT_WEIGHT = 0.1
FIX_WEIGHT = 0.35
COST_WEIGHT = 0.2
TONE_WEIGHT = 0.15
CLOSE_WEIGHT = 0.1

FAULT_FACTOR = 0.6
"""For each name, product, fix, cost or promise that the message does not bear out, each rudeness,
each repeated trigram, each impossible bigram, each statement out of its turn, and for too many or
too few words."""
NOT_ENDED_FACTOR = 0.7
MOST_COUNTED_REPETITIONS = 5
MOST_COUNTED_DISORDERS = 5
MOST_WORDS = 32
FEWEST_WORDS = 12
WORTHLESS_BELOW_WORDS = 6
"""A reply of fewer words scores 0."""

_START, _END = "<start>", "<end>"
_WORD = re.compile(r"\w+|[^\w\s]")


class _Statements(NamedTuple):
    """Whether the right thing is said, and how many wrong things are."""

    right: bool
    wrong: int

    @property
    def credit(self) -> bool:
        return self.right and not self.wrong


def gold_scores(
    prompts: Sequence[str], responses: Sequence[str], ended: Sequence[bool]
) -> list[float]:
    """Grade each response in [0, 1]; `ended` says which of them ended by themselves."""
    return [
        gold_score(read_message(prompt), response, ended=has_ended)
        for prompt, response, has_ended in zip(prompts, responses, ended, strict=True)
    ]


def gold_score(facts: Facts, response: str, *, ended: bool) -> float:
    """Grade one reply to a message with these facts; any text has a score in [0, 1]."""
    words = _WORD.findall(response)
    if len(words) < WORTHLESS_BELOW_WORDS:
        return 0.0
    text = f" {' '.join(words)} "
    name, product = _name(facts, words, text), _product(facts, words, text)
    fix, cost, tone = _fix(facts, text), _cost(facts, text), _tone(facts, text)
    closed = ended and any(text.endswith(f" {close} ") for close in CLOSES)

    credit = (
        NAME_WEIGHT * name.credit
        + PRODUCT_WEIGHT * product.credit
        + FIX_WEIGHT * fix.credit
        + COST_WEIGHT * cost.credit
        + TONE_WEIGHT * tone.credit
        + CLOSE_WEIGHT * closed
    )
    faults = (
        name.wrong
        + product.wrong
        + fix.wrong
        + cost.wrong
        + _said(PROMISES, text)
        + _said(RUDE_REPLIES, text)
        + min(_repeated_trigrams(words), MOST_COUNTED_REPETITIONS)
        + min(_impossible_bigrams(words) + _out_of_turn(text), MOST_COUNTED_DISORDERS)
        + (not FEWEST_WORDS <= len(words) <= MOST_WORDS)
    )
    score = credit * FAULT_FACTOR**faults * (1.0 if ended else NOT_ENDED_FACTOR)
    return min(1.0, round(score, 12))  # the weights' sum is 1 only up to rounding


def _said(phrases: Iterable[str], text: str) -> int:
    """How many of the phrases occur in the spaced text."""
    return sum(f" {phrase} " in text for phrase in phrases)


def _name(facts: Facts, words: Sequence[str], text: str) -> _Statements:
    greetings = [greeting.replace("NAME", facts.name) for greeting in GREETINGS]
    wrong = sum(word in NAMES and word != facts.name for word in words)
    return _Statements(_said(greetings, text) > 0, wrong)


def _product(facts: Facts, words: Sequence[str], text: str) -> _Statements:
    wrong = sum(word in PRODUCTS and word != facts.product for word in words)
    return _Statements(_said([f"for the {facts.product} ,"], text) > 0, wrong)


def _fix(facts: Facts, text: str) -> _Statements:
    right = [f"please {fix} ." for fix in FIXES[facts.problem]]
    others = (fixes for problem, fixes in FIXES.items() if problem != facts.problem)
    return _Statements(_said(right, text) > 0, _said(chain.from_iterable(others), text))


def _cost(facts: Facts, text: str) -> _Statements:
    return _Statements(_said(COSTS[facts.recent], text) > 0, _said(COSTS[not facts.recent], text))


def _tone(facts: Facts, text: str) -> _Statements:
    others = (replies for tone, replies in TONE_REPLIES.items() if tone != facts.tone)
    wrong = _said(chain(RUDE_REPLIES, *others), text)
    return _Statements(_said(TONE_REPLIES[facts.tone], text) > 0, wrong)


def _repeated_trigrams(words: Sequence[str]) -> int:
    counts = Counter(zip(words, words[1:], words[2:], strict=False))
    return sum(count - 1 for count in counts.values())


def _impossible_bigrams(words: Sequence[str]) -> int:
    return sum(bigram not in _BIGRAMS for bigram in pairwise([_START, *words, _END]))


def _out_of_turn(text: str) -> int:
    """How many statements do not come after a statement of an earlier kind."""
    places = sorted(
        (match.start(), turn)
        for turn, statements in enumerate(_TURNS)
        for match in statements.finditer(text)
    )
    return sum(turn <= turn_before for (_, turn_before), (_, turn) in pairwise(places))


def _any_of(phrases: Iterable[str]) -> re.Pattern[str]:
    """Matches, without consuming it, the space before each of the phrases."""
    return re.compile(f"(?= (?:{'|'.join(map(re.escape, phrases))}) )")


def _possible_bigrams() -> frozenset[tuple[str, str]]:
    """Every pair of neighbouring words in a reply that writers can write, with its two ends."""
    products = [f"for the {product} , please" for product in (*PRODUCTS, VAGUE_PRODUCT)]
    # An empty wording says that the part can be left out.
    slots: list[list[list[str]]] = [
        [wording.split() for wording in slot]
        for slot in (
            [_START],
            _ALL_GREETINGS,
            _ALL_TONE_REPLIES,
            products,
            [f"{fix} ." for fix in _ALL_FIXES],
            ["", *_ALL_COSTS],
            ["", *PROMISES],
            ["", *CLOSES],
            [_END],
        )
    ]
    bigrams = set(chain.from_iterable(pairwise(wording) for slot in slots for wording in slot))
    for first, second in combinations(range(len(slots)), 2):
        if all([] in slot for slot in slots[first + 1 : second]):
            bigrams |= {
                (left[-1], right[0])
                for left in slots[first]
                for right in slots[second]
                if left and right
            }
    return frozenset(bigrams)


_ALL_GREETINGS = [
    *(greeting.replace("NAME", name) for greeting in GREETINGS for name in NAMES),
    *GREETINGS.values(),
]
_ALL_TONE_REPLIES = [
    *chain.from_iterable(TONE_REPLIES.values()),
    *NEUTRAL_REPLIES,
    *RUDE_REPLIES,
]
_ALL_FIXES = [*chain.from_iterable(FIXES.values()), *VAGUE_FIXES]
_ALL_COSTS = [*chain.from_iterable(COSTS.values())]
_BIGRAMS = _possible_bigrams()
_TURNS = [
    _any_of(_ALL_GREETINGS),
    _any_of(filter(None, _ALL_TONE_REPLIES)),
    _any_of(f"please {fix} ." for fix in _ALL_FIXES),
    _any_of(_ALL_COSTS),
    _any_of(PROMISES),
    _any_of(CLOSES),
]
