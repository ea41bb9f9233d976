"""Exact match of final numbers, on rows made here and on GSM8K where it is at hand."""

import gzip
import json
from decimal import Decimal
from pathlib import Path

import pytest

from rlhf_core.verifiable import final_number, same_final_number

GSM8K = Path(__file__).parents[2] / "shared" / "data" / "demonstrations" / "gsm8k_train.jsonl.gz"


@pytest.mark.parametrize(
    "text,number",
    [
        ("#### 72", 72),
        ("48 / 2 = 24, so 48 + 24 = 72", 72),
        ("#### 1,200", 1200),
        ("#### 7\nor 8?", 7),  # what is marked counts
        ("it costs $3.50", "3.5"),
        ("#### -5", -5),
        ("none at all", None),
        ("", None),
    ],
)
def test_a_text_ends_in_its_marked_or_last_number(text, number):
    assert final_number(text) == (None if number is None else Decimal(number))


def test_a_response_is_right_where_its_number_is_the_references():
    prompts = ["2 + 2?", "2 + 2?", "2 + 2?", "2 + 2?"]
    responses = ["so 4.00", "#### 5", "four", "#### 4"]
    assert same_final_number(prompts, responses, ["#### 4"] * 4) == [1, 0, 0, 1]


def test_a_prompt_without_an_answer_in_the_data_is_named():
    with pytest.raises(ValueError, match="no number as the answer to 'why'"):
        same_final_number(["why"], ["4"], [None])


@pytest.mark.skipif(not GSM8K.exists(), reason="the public data are not beside the repository")
def test_every_solution_of_gsm8k_is_right_and_the_next_ones_seldom_is():
    with gzip.open(GSM8K, "rt") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(1000), strict=False)]
    prompts, solutions = ([row[name] for row in rows] for name in ("prompt", "response"))
    assert set(same_final_number(prompts, solutions, solutions)) == {1.0}
    others = same_final_number(prompts, [*solutions[1:], solutions[0]], solutions)
    assert sum(others) / len(others) < 0.1
