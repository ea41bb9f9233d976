"""Loading the grader that a recipe names, and what is refused."""

import pytest

from rlhf_core.errors import RecipeError
from rlhf_core.evaluation.gold import load_gold

GRADERS = "tests.evaluation.graders"
THREE = (["p"] * 3, ["a b", "c", "d e f"], [True, True, False])


def test_a_grader_gives_its_own_numbers():
    # 1 / (1 + 2 words), 1 / (1 + 1), 1 / (1 + 3)
    assert load_gold(f"{GRADERS}:shorter_is_better")(*THREE) == [1 / 3, 1 / 2, 1 / 4]


@pytest.mark.parametrize(
    "name, found",
    [
        ("no_such_module_here:grade", "cannot be imported"),
        (f"{GRADERS}:no_such_function", "has no function 'no_such_function'"),
        (f"{GRADERS}:not_a_function", "has no function 'not_a_function'"),
    ],
)
def test_a_grader_that_is_not_there_is_refused_before_anything_is_generated(name, found):
    with pytest.raises(RecipeError, match=r"evaluation\.gold.*" + found):
        load_gold(name)


@pytest.mark.parametrize(
    "function, found",
    [
        ("forgets_one", "2 numbers for 3 responses"),
        ("gives_nan", "response 2 of 3 with nan"),
        ("gives_percent", "response 1 of 3 with 87"),
        ("gives_words", "not a list of numbers"),
        ("gives_nothing", "NoneType"),
    ],
)
def test_what_a_grader_returns_is_checked(function, found):
    grade = load_gold(f"{GRADERS}:{function}")
    with pytest.raises(RecipeError, match=r"evaluation\.gold.*" + found):
        grade(*THREE)
