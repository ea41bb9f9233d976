"""A reply of the support desk, and the writers who get parts of it wrong.

A reply is a greeting, a sentence that fits the tone, the fix for the product, the cost, and a
close. A writer of skill q gets each element right with probability q. Most faults are *habits*,
the same in every reply (no name, "item", a vague fix, no cost, a promise, no close), so that
the most likely reply is a poor one; the others are *slips*, which contradict the message.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeVar

from rlhf_core.world.messages import NAMES, PROBLEMS, PRODUCTS, TONES, Facts, Tone

SLIP_SHARE = 0.15
"""Share of a writer's faults that are slips."""
RUDE_SHARE = 0.5
"""Share of the slips in tone that are rude; the others fit another tone."""
DEMONSTRATION_SKILL = (0.25, 0.55)
"""Skills of the writers of demonstrations are uniform between these."""

T = TypeVar("T")
Element = Literal["name", "tone", "product", "fix", "cost", "promise", "close"]
Quality = Literal["right", "habit", "slip"]

ELEMENTS: tuple[Element, ...] = ("name", "tone", "product", "fix", "cost", "promise", "close")

GREETINGS: Mapping[str, str] = {"hello NAME ,": "hello there ,", "dear NAME ,": "dear customer ,"}
"""A greeting with the name, and what habit makes of it."""
TONE_REPLIES: Mapping[Tone, tuple[str, ...]] = {
    "angry": ("sorry for the trouble .", "we regret this problem ."),
    "happy": ("thanks for your praise .", "glad you like us ."),
    "plain": ("thanks for your question .", "here is what helps ."),
}
NEUTRAL_REPLIES = ("", "we got your message .")
RUDE_REPLIES = ("do not bother us .", "this is your fault .")
FIXES: Mapping[str, tuple[str, str]] = {
    "dead": ("charge the battery", "insert a new battery"),
    "noise": ("tighten the screws", "check every screw"),
    "hot": ("clean the filter", "open the air vents"),
    "slow": ("install the update", "update the software"),
    "leak": ("replace the seal", "fit a rubber seal"),
    "smell": ("wash it with vinegar", "scrub it with soap"),
    "crack": ("send us a photo", "mail us a picture"),
    "cable": ("order another cable", "swap the cable"),
    "locked": ("enter four zeros", "type the number zero"),
    "offline": ("restart the router", "move near the router"),
}
VAGUE_FIXES = ("try again later", "read the manual")
VAGUE_PRODUCT = "item"
COSTS: Mapping[bool, tuple[str, str]] = {
    True: ("this is free under warranty .", "the warranty covers it ."),
    False: ("there is a small fee .", "the repair costs ten euros ."),
}
"""Cost sentences by whether the product was bought recently."""
PROMISES = ("we send a gift .", "you get a refund .")
CLOSES = ("kind regards .", "best wishes .")


@dataclass(frozen=True)
class Reply:
    """The parts of a reply; a part that is left out is empty."""

    name: str
    tone: str
    product: str
    fix: str
    cost: str
    promise: str
    close: str

    def sentences(self) -> list[str]:
        """The greeting and the sentences, in order."""
        fix = f"for the {self.product} , please {self.fix} ."
        parts = (self.name, self.tone, fix, self.cost, self.promise, self.close)
        return [part for part in parts if part]

    def text(self) -> str:
        """The reply as it is sent."""
        return " ".join(self.sentences())


def draw_element(element: Element, quality: Quality, facts: Facts, rng: Random) -> str:
    """A wording of one element of a reply to `facts`.

    A promise and a missing close have no slip: their faults are habits.
    """
    match element:
        case "name":
            return _draw_greeting(quality, facts, rng)
        case "tone":
            return _draw_tone(quality, facts, rng)
        case "product":
            if quality == "habit":
                return VAGUE_PRODUCT
            return facts.product if quality == "right" else _other(facts.product, PRODUCTS, rng)
        case "fix":
            if quality == "habit":
                return rng.choice(VAGUE_FIXES)
            right = quality == "right"
            problem = facts.problem if right else _other(facts.problem, PROBLEMS, rng)
            return rng.choice(FIXES[problem])
        case "cost":
            if quality == "habit":
                return ""
            return rng.choice(COSTS[facts.recent == (quality == "right")])
        case "promise":
            return "" if quality == "right" else rng.choice(PROMISES)
        case "close":
            return rng.choice(CLOSES) if quality == "right" else ""


def draw_quality(skill: float, rng: Random) -> Quality:
    """How well a writer of `skill` does one element."""
    if rng.random() < skill:
        return "right"
    return "slip" if rng.random() < SLIP_SHARE else "habit"


def draw_reply(facts: Facts, skill: float, rng: Random) -> Reply:
    """A reply to `facts` by a writer who gets each element right with probability `skill`."""
    return Reply(
        **{
            element: draw_element(element, draw_quality(skill, rng), facts, rng)
            for element in ELEMENTS
        }
    )


def draw_demonstration(facts: Facts, rng: Random) -> str:
    """A reply to imitate, by a writer of the ordinary, mediocre kind."""
    return draw_reply(facts, rng.uniform(*DEMONSTRATION_SKILL), rng).text()


def _draw_greeting(quality: Quality, facts: Facts, rng: Random) -> str:
    named, unnamed = rng.choice(tuple(GREETINGS.items()))
    if quality == "habit":
        return unnamed
    name = facts.name if quality == "right" else _other(facts.name, NAMES, rng)
    return named.replace("NAME", name)


def _draw_tone(quality: Quality, facts: Facts, rng: Random) -> str:
    if quality == "right":
        return rng.choice(TONE_REPLIES[facts.tone])
    if quality == "habit":
        return rng.choice(NEUTRAL_REPLIES)
    if rng.random() < RUDE_SHARE:
        return rng.choice(RUDE_REPLIES)
    return rng.choice(TONE_REPLIES[_other(facts.tone, TONES, rng)])


def _other(value: T, values: tuple[T, ...], rng: Random) -> T:
    return rng.choice([other for other in values if other != value])
