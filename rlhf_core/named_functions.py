"""Functions that a recipe names as `module:function`, and the numbers that they return."""

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

from rlhf_core.errors import RecipeError


def is_function_name(name: str) -> bool:
    """Whether the name has the form `module:function`."""
    module, _, function = name.partition(":")
    return name.count(":") == 1 and bool(module) and bool(function)


def load_function(name: str, *, setting: str, called_as: str) -> Callable[..., Any]:
    """The function `module:function`.

    `setting` is where the recipe names it, and `called_as` how it is called, for messages. Raises
    RecipeError where there is no such function.
    """
    module_name, _, function_name = name.partition(":")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise RecipeError(
            f"{setting}: the module of {name!r} cannot be imported ({error}). Name an "
            "installed module, or start the command where Python finds it."
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise RecipeError(
            f"{setting}: module {module_name!r} has no function {function_name!r}. Name one "
            f"that is called as {called_as}."
        )
    found: Callable[..., Any] = function
    return found


def checked_numbers(
    numbers: object,
    count: int,
    *,
    setting: str,
    name: str,
    lowest: float = -math.inf,
    highest: float = math.inf,
) -> list[float]:
    """What the function `name` returned for `count` responses, as that many finite numbers.

    Raises RecipeError where it is anything else, or a number lies outside `lowest` to `highest`.
    """
    wanted = "finite numbers"
    if math.isfinite(lowest) and math.isfinite(highest):
        wanted = f"finite numbers in [{lowest:g}, {highest:g}]"
    try:
        found = [float(number) for number in numbers]  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"{setting}: {name} returned a {type(numbers).__name__} that is not a list of "
            f"numbers ({error}). Return {wanted}, one for each response."
        ) from error
    if len(found) != count:
        raise RecipeError(
            f"{setting}: {name} returned {len(found)} numbers for {count} responses. "
            "Return one for each, in their order."
        )
    for row, number in enumerate(found):
        if not (math.isfinite(number) and lowest <= number <= highest):
            raise RecipeError(
                f"{setting}: {name} graded response {row + 1} of {count} with {number}. "
                f"Return {wanted}."
            )
    return found
