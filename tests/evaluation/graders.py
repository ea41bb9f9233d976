"""Graders as a recipe may name them: one that is right, and some with a fault."""

from collections.abc import Sequence


def shorter_is_better(
    prompts: Sequence[str], responses: Sequence[str], ended: Sequence[bool]
) -> list[float]:
    return [1 / (1 + len(response.split())) for response in responses]


def forgets_one(
    prompts: Sequence[str], responses: Sequence[str], ended: Sequence[bool]
) -> list[float]:
    return [0.5] * (len(responses) - 1)


def gives_nan(
    prompts: Sequence[str], responses: Sequence[str], ended: Sequence[bool]
) -> list[float]:
    return [0.5, float("nan"), *[0.5] * (len(responses) - 2)]


def gives_percent(
    prompts: Sequence[str], responses: Sequence[str], ended: Sequence[bool]
) -> list[float]:
    return [87.0] * len(responses)


def gives_words(
    prompts: Sequence[str], responses: Sequence[str], ended: Sequence[bool]
) -> list[str]:
    return ["good"] * len(responses)


def gives_nothing(prompts: Sequence[str], responses: Sequence[str], ended: Sequence[bool]) -> None:
    return None


not_a_function = 0.5
