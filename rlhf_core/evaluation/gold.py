"""The gold score: a function that the recipe names and that no training stage may see."""

import math
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import cast

from rlhf_core.errors import RecipeError

GoldScores = Callable[[Sequence[str], Sequence[str], Sequence[bool]], Sequence[float]]
"""Called as `gold(prompts, responses, ended)`: one number in [0, 1] for each response."""


def load_gold(name: str) -> GoldScores:
    """The grader `module:function`, whose results are checked each time it is called.

    Raises RecipeError where there is no such function, and later where it does not give one finite
    number in [0, 1] for each response.
    """
    module_name, _, function_name = name.partition(":")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise RecipeError(
            f"evaluation.gold: the module of {name!r} cannot be imported ({error}). Name an "
            "installed module, or start the command where Python finds it."
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise RecipeError(
            f"evaluation.gold: module {module_name!r} has no function {function_name!r}. Name one "
            "that is called as function(prompts, responses, ended)."
        )
    grade = cast(GoldScores, function)

    def checked(
        prompts: Sequence[str], responses: Sequence[str], ended: Sequence[bool]
    ) -> list[float]:
        return _checked(name, grade(prompts, responses, ended), len(responses))

    return checked


def _checked(name: str, golds: object, count: int) -> list[float]:
    try:
        numbers = [float(gold) for gold in golds]  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"evaluation.gold: {name} returned a {type(golds).__name__} that is not a list of "
            f"numbers ({error}). Return one number in [0, 1] for each response."
        ) from error
    if len(numbers) != count:
        raise RecipeError(
            f"evaluation.gold: {name} returned {len(numbers)} numbers for {count} responses. "
            "Return one for each, in their order."
        )
    for row, number in enumerate(numbers):
        if not (math.isfinite(number) and 0 <= number <= 1):
            raise RecipeError(
                f"evaluation.gold: {name} graded response {row + 1} of {count} with {number}. "
                "Return finite numbers in [0, 1]."
            )
    return numbers
