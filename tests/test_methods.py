"""The comparison of methods: what it runs, and the figures that it makes of the evaluation's."""

import json

import pytest

from benchmarks.methods import METHODS, read_graded, row, table
from benchmarks.support_desk import RECIPE
from rlhf_core.recipes import load_recipe


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_a_recipe_that_starts_from_the_same_sft_and_reward_model(method):
    base, recipe = load_recipe(RECIPE), load_recipe(RECIPE, METHODS[method])
    assert (recipe.sft, recipe.reward_model, recipe.model) == (
        base.sft,
        base.reward_model,
        base.model,
    )
    assert (recipe.ppo == base.ppo) == (method == "PPO")


def test_a_row_compares_on_the_prompts_that_both_answered(tmp_path):
    golds = [{"sft": 0.2, "ppo": 0.6, "best_of_n": 0.4}, {"sft": 0.5, "ppo": 0.5}]
    lines = [
        json.dumps({"answers": {name: {"gold": gold} for name, gold in grades.items()}})
        for grades in golds
    ]
    (tmp_path / "samples.jsonl").write_text("\n".join(lines))
    graded = read_graded(tmp_path)
    of_ppo = row(1, "PPO", graded, "ppo", kl=6.0, seconds=50.0)
    assert (of_ppo["gold"], of_ppo["win_rate"]) == (0.55, 0.75)  # a win and a tie
    best = row(1, "best-of-4", graded, "best_of_n", kl=0.6, seconds=0.0)
    assert (best["gold"], best["win_rate"]) == (0.4, 1.0)


def test_the_table_has_mean_and_deviation_over_seeds():
    rows = [
        {"seed": seed, "method": "PPO", "gold": gold, "win_rate": 1.0, "kl": 6.0, "seconds": 50.0}
        for seed, gold in ((1, 0.7), (2, 0.9))
    ]
    line = table(rows).splitlines()[-1]
    assert line == "| PPO | 2 | 0.800 ± 0.141 | 1.000 ± 0.000 | 6.0 ± 0.0 | 50 ± 0 |"
