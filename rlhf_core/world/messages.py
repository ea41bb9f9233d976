"""A customer's message: the facts in it, how they are worded, and how they are read back.

Words are lower case and separated by single spaces; punctuation marks are words. Each fact stands
in a sentence of its own (name, tone, product with problem, age), so the sentences can change
places and the facts can still be read exactly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from rlhf_core.errors import DataError

Tone = Literal["angry", "happy", "plain"]

# fmt: off
NAMES = (
    "anna", "ben", "carl", "dora", "emma", "frank", "greta", "henry", "ida", "jack", "kate", "lena",
    "leo", "maria", "nina", "oscar", "paul", "rosa", "sam", "tina", "umar", "vera", "yara", "zoe",
)
PRODUCTS = (
    "blender", "camera", "clock", "drill", "fan", "fridge", "heater", "kettle", "keyboard", "lamp",
    "mixer", "monitor", "phone", "printer", "radio", "scooter", "speaker", "tablet", "toaster",
    "vacuum",
)
# fmt: on

PROBLEM_WORDINGS: Mapping[str, tuple[str, ...]] = {
    "dead": (
        "my PRODUCT does not turn on .",
        "i cannot switch on my PRODUCT .",
        "my PRODUCT is dead .",
    ),
    "noise": (
        "my PRODUCT makes a strange noise .",
        "i hear a rattle in my PRODUCT .",
        "my PRODUCT is too loud .",
    ),
    "hot": (
        "my PRODUCT gets too hot .",
        "my PRODUCT is overheating .",
        "i burned my hand on my PRODUCT .",
    ),
    "slow": (
        "my PRODUCT is very slow .",
        "my PRODUCT reacts too late .",
        "i wait for minutes on my PRODUCT .",
    ),
    "leak": (
        "my PRODUCT leaks water .",
        "there is water below my PRODUCT .",
        "my PRODUCT drips .",
    ),
    "smell": (
        "my PRODUCT smells bad .",
        "there is a bad smell from my PRODUCT .",
        "my PRODUCT stinks .",
    ),
    "crack": (
        "my PRODUCT has a crack .",
        "the case of my PRODUCT is broken .",
        "i dropped my PRODUCT .",
    ),
    "cable": (
        "the cable of my PRODUCT is loose .",
        "the plug falls out of my PRODUCT .",
        "my PRODUCT loses contact .",
    ),
    "locked": (
        "my PRODUCT is locked .",
        "i forgot the code of my PRODUCT .",
        "my PRODUCT asks for a password .",
    ),
    "offline": (
        "my PRODUCT finds no network .",
        "i cannot connect my PRODUCT .",
        "my PRODUCT is always offline .",
    ),
}
PROBLEMS = tuple(PROBLEM_WORDINGS)

AGE_WORDINGS: Mapping[bool, tuple[str, ...]] = {
    True: (
        "i bought it last week .",
        "it is only ten days old .",
        "i got it a month ago .",
    ),
    False: (
        "i bought it four years ago .",
        "it is quite old now .",
        "i have used it for ages .",
    ),
}
TONE_WORDINGS: Mapping[Tone, tuple[str, ...]] = {
    "angry": ("i am really angry !", "this is not acceptable !", "what a terrible shop !"),
    "happy": ("i love your shop !", "you are always so kind !", "your team is great !"),
    "plain": ("please help me .", "what can i do ?", "i need some advice ."),
}
TONES = tuple(TONE_WORDINGS)
INTRODUCTIONS = ("hello , my name is NAME .", "hi , this is NAME .")
SIGNATURES = ("regards , NAME .", "thanks , NAME .")
ORDERS = (
    ("tone", "problem", "age"),
    ("tone", "age", "problem"),
    ("problem", "tone", "age"),
    ("problem", "age", "tone"),
    ("age", "tone", "problem"),
    ("age", "problem", "tone"),
)

DISTINCT_MESSAGES = (
    len(NAMES)
    * len(PRODUCTS)
    * sum(map(len, PROBLEM_WORDINGS.values()))
    * sum(map(len, AGE_WORDINGS.values()))
    * sum(map(len, TONE_WORDINGS.values()))
    * (len(INTRODUCTIONS) + len(SIGNATURES))
    * len(ORDERS)
)


@dataclass(frozen=True)
class Facts:
    """What a customer says, and what a reply has to fit."""

    name: str
    product: str
    problem: str
    recent: bool
    """Bought recently, so that the warranty holds."""
    tone: Tone


def draw_facts(rng: Random) -> Facts:
    """Facts drawn uniformly."""
    return Facts(
        name=rng.choice(NAMES),
        product=rng.choice(PRODUCTS),
        problem=rng.choice(PROBLEMS),
        recent=rng.choice((True, False)),
        tone=rng.choice(TONES),
    )


def write_message(facts: Facts, rng: Random) -> str:
    """One of the messages that state `facts`; `read_message` gives the facts back."""
    sentences = {
        "tone": rng.choice(TONE_WORDINGS[facts.tone]),
        "problem": rng.choice(PROBLEM_WORDINGS[facts.problem]).replace("PRODUCT", facts.product),
        "age": rng.choice(AGE_WORDINGS[facts.recent]),
    }
    words = [sentences[element] for element in rng.choice(ORDERS)]
    name_wording = rng.choice(INTRODUCTIONS + SIGNATURES)
    name_sentence = name_wording.replace("NAME", facts.name)
    if name_wording in INTRODUCTIONS:
        return " ".join([name_sentence, *words])
    return " ".join([*words, name_sentence])


def read_message(text: str) -> Facts:
    """The facts of a message that `write_message` wrote; any other text is refused."""
    sentences = _sentences(text.split())
    templates = [_template(sentence) for sentence in sentences]
    problems = [_PROBLEM_OF[template] for template in templates if template in _PROBLEM_OF]
    ages = [_AGE_OF[template] for template in templates if template in _AGE_OF]
    tones = [_TONE_OF[template] for template in templates if template in _TONE_OF]
    names = [word for word in text.split() if word in NAMES]
    products = [word for word in text.split() if word in PRODUCTS]
    found = (names, products, problems, ages, tones)
    named = [template for template in templates if template in INTRODUCTIONS + SIGNATURES]
    if len(sentences) != 4 or len(named) != 1 or any(len(values) != 1 for values in found):
        raise DataError(
            f"{text[:200]!r} is not a message of the support desk: four known sentences that give "
            "name, product with problem, age and tone are needed. Grade this world's prompts "
            "only, or leave out `evaluation.gold`."
        )
    return Facts(names[0], products[0], problems[0], ages[0], tones[0])


def _sentences(words: Sequence[str]) -> list[list[str]]:
    sentences: list[list[str]] = [[]]
    for word in words:
        sentences[-1].append(word)
        if word in {".", "!", "?"}:
            sentences.append([])
    return [sentence for sentence in sentences if sentence]


def _template(sentence: Sequence[str]) -> str:
    return " ".join(
        "NAME" if word in NAMES else "PRODUCT" if word in PRODUCTS else word for word in sentence
    )


_PROBLEM_OF = {text: value for value, texts in PROBLEM_WORDINGS.items() for text in texts}
_AGE_OF = {text: value for value, texts in AGE_WORDINGS.items() for text in texts}
_TONE_OF = {text: value for value, texts in TONE_WORDINGS.items() for text in texts}
