import math

import pandas as pd
import pytest
import torch

from rlhf_core.pages.scorecard import scorecard_page
from rlhf_core.scorecard import ScoredTexts, calibration, calibration_error, scorecard
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
    """Rows of (prompt, source, group), each of two responses."""
    table = pd.DataFrame(list(rows), columns=["prompt", "source", "group"], dtype=object)
    return table.assign(responses=[[f"good {p}", f"poor {p}"] for p in table.prompt])


FOUR = comparisons(
    [0, 0, 1, 2], [2.0, 1.0, 0.5, 0.0], [1.0, 1.0, -0.5, 1.0], [5, 4, 3, 3], [4, 4, 5, 1]
)
"""Right, a tie, right, wrong; the better one is longer, as long, shorter, longer."""

THREE_PROMPTS = preferences(("a", "x", None), ("b", "x", None), ("c", "y", None))


SCORED = ScoredTexts(torch.tensor([0.5, -0.5]), torch.tensor([-1.0, -2.0, -3.0]))


def card(found=FOUR, table=THREE_PROMPTS, scored=SCORED):
    return scorecard(found, table, scored, seed=1)


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


def test_the_calibration_error_is_the_mean_gap_over_pairs():
    bins = [
        {"promised": 0.6, "found": 0.5, "pairs": 3.0},
        {"promised": 0.9, "found": 1.0, "pairs": 1.0},
    ]
    assert calibration_error(bins) == pytest.approx((3 * 0.1 + 0.1) / 4)
    assert card().summary["calibration_error"] == pytest.approx(
        calibration_error(card().document["calibration"])
    )


def test_the_lead_over_length_is_paired():
    # Right, a tie, right, wrong, against longer, as long, shorter, longer: 0, 0, 1, -1.
    lead = card().document["lead_over_length"]
    assert lead["mean"] == pytest.approx(0.0)
    always_longer = comparisons([0, 1, 2], [2.0, 2.0, 0.0], [1.0, 1.0, 1.0], [5, 4, 1], [4, 3, 2])
    lead = card(always_longer).document["lead_over_length"]
    assert (lead["mean"], lead["low"], lead["high"]) == (0.0, 0.0, 0.0)


def test_accuracy_is_told_apart_where_both_scores_are_high():
    # Eight scores with median 1: of the pairs only the second has both at least there.
    part = card().document["accuracy_where_both_score_high"]
    assert part["pairs"] == 2.0  # 2 over 1, and 1 with 1
    assert part["mean"] == pytest.approx(0.75)


def test_accuracy_is_told_by_confidence_where_the_data_has_it():
    table = THREE_PROMPTS.assign(confidence=["sure", "sure", "unsure"])
    by_confidence = card(FOUR, table).document["accuracy_by_confidence"]
    assert by_confidence["sure"]["mean"] == pytest.approx(2.5 / 3)
    assert by_confidence["unsure"]["mean"] == 0.0


def test_the_worst_pairs_come_first_with_their_texts():
    worst = card().document["worst_pairs"]
    assert [round(pair["better_score"] - pair["worse_score"], 4) for pair in worst] == [-1, 0, 1, 1]
    assert worst[0]["prompt"] == "c"
    assert (worst[0]["better"], worst[0]["worse"]) == ("good c", "poor c")
    assert (worst[0]["better_tokens"], worst[0]["worse_tokens"]) == (3, 1)


def test_no_more_than_twenty_of_them_are_kept():
    many = comparisons(list(range(30)), [0.0] * 30, [1.0] * 30, [1] * 30, [1] * 30)
    table = preferences(*[(f"p{row}", "x", None) for row in range(30)])
    assert len(card(many, table).document["worst_pairs"]) == 20


def test_scores_of_sft_samples_are_told_where_there_are_any():
    summary = card().summary
    assert summary["sft_sample_score"] == pytest.approx(-2.0)
    assert summary["sft_sample_score_deviation"] == pytest.approx((2 / 3) ** 0.5)
    none = ScoredTexts(torch.tensor([0.0]), torch.tensor([]))
    assert "sft_sample_score" not in card(scored=none).summary
    assert sum(card().document["scores"]["sft_samples"]["counts"]) == 3


def test_the_page_holds_the_figures_and_escapes_the_texts():
    nasty = "<script>alert(1)</script>"
    table = preferences((nasty, nasty, None), ("b", "x", None), ("c", "y", None))
    table = table.assign(confidence=["a & b", "sure", "sure"])
    page = scorecard_page(card(FOUR, table).document)
    assert "62.5 %" in page  # 2.5 of 4 pairs
    assert nasty not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "a &amp; b" in page
    assert "http" not in page.replace("http-equiv", "")  # nothing is loaded from elsewhere
    assert "good c" in page


def test_a_page_without_samples_and_with_one_score_is_drawn_all_the_same():
    constant = comparisons([0, 1], [1.0, 1.0], [1.0, 1.0], [1, 1], [1, 1])
    none = ScoredTexts(torch.tensor([1.0]), torch.tensor([]))
    assert "50.0 %" in scorecard_page(card(constant, scored=none).document)
