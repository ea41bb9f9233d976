import math

import pandas as pd
import pytest
import torch

from rlhf_core.scorecard import calibration, scorecard
from rlhf_core.training.compared import Comparisons


def comparisons(prompt_index, better, worse, better_tokens, worse_tokens) -> Comparisons:
    return Comparisons(
        torch.tensor(prompt_index),
        torch.tensor(better),
        torch.tensor(worse),
        torch.tensor(better_tokens),
        torch.tensor(worse_tokens),
        torch.zeros(len(better)).long(),
        torch.ones(len(better)).long(),
        torch.zeros(len(better)),
    )


def preferences(*rows) -> pd.DataFrame:
    """Rows of (prompt, source, group)."""
    return pd.DataFrame(list(rows), columns=["prompt", "source", "group"], dtype=object)


FOUR = comparisons(
    [0, 0, 1, 2], [2.0, 1.0, 0.5, 0.0], [1.0, 1.0, -0.5, 1.0], [5, 4, 3, 3], [4, 4, 5, 1]
)
"""Right, a tie, right, wrong; the better one is longer, as long, shorter, longer."""

THREE_PROMPTS = preferences(("a", "x", None), ("b", "x", None), ("c", "y", None))


def card(found=FOUR, table=THREE_PROMPTS, demonstration_scores=(0.5, -0.5)):
    return scorecard(found, table, demonstration_scores=torch.tensor(demonstration_scores), seed=1)


def test_accuracy_counts_ties_half_and_length_is_held_against_it():
    summary = card().summary
    assert summary["accuracy"] == pytest.approx((1 + 0.5 + 1 + 0) / 4)
    assert summary["longer_wins_accuracy"] == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert summary["pairs"] == 4
    assert summary["accuracy_low"] <= summary["accuracy"] <= summary["accuracy_high"]


def test_loss_and_margin_are_means_over_pairs():
    summary = card().summary
    margins = [1.0, 0.0, 1.0, -1.0]
    loss = sum(math.log(1 + math.exp(-margin)) for margin in margins) / 4
    assert summary["loss"] == pytest.approx(loss, rel=1e-5)  # float32
    assert summary["margin"] == pytest.approx(0.25)
    # Squares about 0.25: .5625 + .0625 + .5625 + 1.5625 = 2.75, over 3
    assert summary["margin_deviation"] == pytest.approx((2.75 / 3) ** 0.5, rel=1e-5)
    assert summary["demonstration_score"] == 0.0


def test_length_correlation_is_of_differences_about_0():
    # Margins 1, 0, 1, -1 against 1, 0, -2, 2 tokens: (1 - 2 - 2) / sqrt(3 * 9)
    assert card().summary["length_correlation"] == pytest.approx(-3 / 27**0.5, rel=1e-6)
    same = comparisons([0], [1.0], [0.0], [3], [3])
    assert card(same).summary["length_correlation"] == 0.0


def test_a_reward_model_that_counts_tokens_correlates_wholly_with_length():
    tokens = comparisons([0, 1, 2], [5.0, 4.0, 3.0], [4.0, 6.0, 1.0], [5, 4, 3], [4, 6, 1])
    summary = card(tokens).summary
    assert summary["length_correlation"] == pytest.approx(1.0)
    assert summary["accuracy"] == pytest.approx(summary["longer_wins_accuracy"])


def test_pairs_of_one_prompt_or_group_widen_the_interval():
    hits = [float(index % 2) for index in range(40)]
    many = comparisons(
        [index for index in range(40) for _ in range(6)],
        [hit for hit in hits for _ in range(6)],
        [0.5] * 240,
        [1] * 240,
        [1] * 240,
    )
    by_row = comparisons(list(range(40)), hits, [0.5] * 40, [1] * 40, [1] * 40)
    alone = preferences(*[(f"prompt {index}", "x", None) for index in range(40)])
    grouped = preferences(*[(f"prompt {index}", "x", f"g{index // 4}") for index in range(40)])

    def width(found, table):
        summary = card(found, table).summary
        return summary["accuracy_high"] - summary["accuracy_low"]

    # Six equal pairs say what one does; 40 independent rows have +- 1.96 * 0.5 / sqrt(40) = 0.31.
    assert (
        width(many, alone) == pytest.approx(width(by_row, alone)) == pytest.approx(0.31, abs=0.03)
    )
    # In 10 groups of two right and two wrong prompts nothing varies between groups.
    assert width(by_row, grouped) == pytest.approx(0.0)


def test_an_empty_group_is_no_group():
    hits = comparisons([0, 1], [1.0, 0.0], [0.5, 0.5], [1, 1], [1, 1])
    table = preferences(("a", "x", ""), ("b", "x", ""))
    summary = card(hits, table).summary
    assert summary["accuracy_high"] - summary["accuracy_low"] == 1.0  # two prompts, not one


def test_accuracy_is_told_by_source_where_there_is_more_than_one():
    document = card().document
    assert document["accuracy_by_source"]["x"]["mean"] == pytest.approx(2.5 / 3)
    assert document["accuracy_by_source"]["x"]["pairs"] == 3
    assert document["accuracy_by_source"]["y"]["mean"] == 0.0
    assert "accuracy_by_group" not in document


def test_calibration_sets_what_sigmoid_promises_beside_what_came_true():
    bins = calibration(torch.tensor([-0.1, 0.2, 3.0, 4.0]), bins=2)
    assert [part["pairs"] for part in bins] == [2, 2]
    assert [part["found"] for part in bins] == [0.5, 1.0]
    promised = [
        (1 / (1 + math.exp(-0.1)) + 1 / (1 + math.exp(-0.2))) / 2,
        (1 / (1 + math.exp(-3)) + 1 / (1 + math.exp(-4))) / 2,
    ]
    assert [part["promised"] for part in bins] == pytest.approx(promised, rel=1e-5)
    assert [part["margin"] for part in bins] == pytest.approx([0.15, 3.5], rel=1e-5)


def test_a_bin_without_pairs_is_left_out():
    assert len(calibration(torch.tensor([1.0, 2.0]))) == 2
