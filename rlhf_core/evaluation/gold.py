"""The gold score: a function that the recipe names and that no training stage may see."""

from collections.abc import Callable, Sequence

from rlhf_core.named_functions import checked_numbers, load_function

GoldScores = Callable[[Sequence[str], Sequence[str], Sequence[bool]], Sequence[float]]
"""Called as `gold(prompts, responses, ended)`: one number in [0, 1] for each response."""

SETTING = "evaluation.gold"


def load_gold(name: str) -> GoldScores:
    """The grader `module:function`, whose results are checked each time it is called.

    Raises RecipeError where there is no such function, and later where it does not give one finite
    number in [0, 1] for each response.
    """
    grade = load_function(name, setting=SETTING, called_as="function(prompts, responses, ended)")

    def checked(
        prompts: Sequence[str], responses: Sequence[str], ended: Sequence[bool]
    ) -> list[float]:
        golds = grade(prompts, responses, ended)
        return checked_numbers(
            golds, len(responses), setting=SETTING, name=name, lowest=0, highest=1
        )

    return checked
