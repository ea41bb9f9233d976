"""Run the embedded default over several seeds and check that its effect is real.

    python -m benchmarks.support_desk --seeds 1-8 --json figures.json

Each seed runs the five stages of `recipes/support-desk.yaml` in a folder of its own, without
Prefect or MLflow, and adds a row to the table; below it stand the promises and whether each holds
in every seed.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rlhf_core.recipes import load_recipe
from rlhf_core.report import ignore
from rlhf_core.settings.base import Settings, Stage
from rlhf_core.settings.recipe import Recipe
from rlhf_core.stages.data import make_data
from rlhf_core.stages.evaluation import make_evaluation
from rlhf_core.stages.ppo import make_ppo
from rlhf_core.stages.reward_model import make_reward_model
from rlhf_core.stages.sft import make_sft
from rlhf_core.tables import read_preferences
from rlhf_core.world.gold import gold_scores
from rlhf_core.world.rankings import label_ceiling

RECIPE = Path(__file__).parent.parent / "recipes" / "support-desk.yaml"

Figures = dict[str, float]


@dataclass(frozen=True)
class Promise:
    """What has to hold of every seed's figures."""

    name: str
    holds: Callable[[Figures], bool]


PROMISES = (
    Promise("gold of PPO at temperature 1 is at least 0.55", lambda f: f["gold_ppo"] >= 0.55),
    Promise("PPO beats SFT sampled", lambda f: f["gold_ppo"] > f["gold_sft"]),
    Promise("PPO beats SFT decoded greedily", lambda f: f["gold_ppo"] > f["gold_sft_greedy"]),
    Promise(
        "PPO beats best-of-n by the reward model", lambda f: f["gold_ppo"] > f["gold_best_of_n"]
    ),
    Promise(
        "best-of-n by likelihood is below half of best-of-n by the reward model",
        lambda f: f["gold_best_of_n_by_likelihood"] < 0.5 * f["gold_best_of_n"],
    ),
    Promise("win rate over SFT is at least 0.85", lambda f: f["win_rate_over_sft"] >= 0.85),
    Promise("KL to the reference is at most 12 nats", lambda f: f["kl_to_reference"] <= 12),
    Promise("at least 0.98 of the responses end", lambda f: f["ended_share_ppo"] >= 0.98),
    Promise(
        "the reward model is within 0.05 of the label-noise ceiling",
        lambda f: f["accuracy"] >= f["accuracy_ceiling"] - 0.05,
    ),
)

SHOWN = (
    "seed",
    "gold_sft",
    "gold_sft_greedy",
    "gold_best_of_n_by_likelihood",
    "gold_best_of_n",
    "gold_ppo",
    "gold_ppo_greedy",
    "win_rate_over_sft",
    "kl_to_reference",
    "ended_share_ppo",
    "accuracy",
    "accuracy_ceiling",
    "sft_seconds",
    "reward_model_seconds",
    "ppo_seconds",
    "training_seconds",
)


def measure(recipe: Recipe, folder: Path) -> Figures:
    """Run all stages of `recipe` below `folder`; gives their summary figures and seconds."""
    figures: Figures = {"seed": recipe.seed}

    def timed(
        stage: Stage, make: Callable[..., dict[str, float]], settings: Settings, **inputs: Path
    ) -> Path:
        out_dir = folder / stage
        out_dir.mkdir(parents=True)
        started = time.monotonic()
        figures.update(
            make(settings, recipe.model, **inputs, out_dir=out_dir, report=ignore, seed=recipe.seed)
        )
        figures[f"{stage}_seconds"] = time.monotonic() - started
        return out_dir

    data = timed("data", make_data, recipe.data)
    sft = timed("sft", make_sft, recipe.sft, data=data)
    reward_model = timed("reward_model", make_reward_model, recipe.reward_model, data=data, sft=sft)
    made = {"data": data, "sft": sft, "reward_model": reward_model}
    ppo = timed("ppo", make_ppo, recipe.ppo, **made)
    timed("evaluation", make_evaluation, recipe.evaluation, **made, ppo=ppo)
    figures["accuracy_ceiling"] = ceiling(data)
    stages = ("sft", "reward_model", "ppo")
    figures["training_seconds"] = sum(figures[f"{stage}_seconds"] for stage in stages)
    return figures


def ceiling(data: Path) -> float:
    """Accuracy of one who knows gold on the validation preferences: labels are noisy on purpose."""
    table = read_preferences(data, "validation")
    golds = [
        gold_scores([prompt] * len(responses), list(responses), [True] * len(responses))
        for prompt, responses in zip(table.prompt, table.responses, strict=True)
    ]
    return label_ceiling(golds, [list(ranks) for ranks in table.ranks])


def seeds_of(text: str) -> list[int]:
    """The seeds in `1-8` or `1,3,5`."""
    if "-" in text:
        first, last = text.split("-")
        return list(range(int(first), int(last) + 1))
    return [int(part) for part in text.split(",")]


def table(rows: Sequence[Figures]) -> str:
    """The figures as Markdown, a row per seed and their mean."""
    columns = [[row.get(name, math.nan) for row in rows] for name in SHOWN]
    body = [[f"{value:.3g}" for value in row] for row in zip(*columns, strict=True)]
    mean = ["mean", *(f"{fmean(column):.3g}" for column in columns[1:])]
    cells = [list(SHOWN), ["---"] * len(SHOWN), *body, mean]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def verdicts(rows: Sequence[Figures]) -> list[str]:
    """One line per promise: whether it holds in every seed, else in which it does not."""
    mean = fmean(row["gold_ppo"] for row in rows)
    lines = [
        f"{'holds' if mean >= 0.65 else 'FAILS'}: mean gold of PPO is at least 0.65 ({mean:.3f})"
    ]
    for promise in PROMISES:
        missed = [f"{row['seed']:.0f}" for row in rows if not promise.holds(row)]
        found = f"FAILS for seed {', '.join(missed)}" if missed else "holds"
        lines.append(f"{found}: {promise.name}")
    return lines


def main() -> None:
    """Measure every seed and print the table and the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="1-8", help="1-8 or 1,3,5")
    parser.add_argument("--set", action="append", default=[], help="override, as of `rlhf run`")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--keep", type=Path, help="keep the artifacts in this folder")
    arguments = parser.parse_args()
    rows: list[Figures] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        for seed in seeds_of(arguments.seeds):
            recipe = load_recipe(RECIPE, [f"seed={seed}", *arguments.set])
            rows.append(measure(recipe, folder / f"seed-{seed}"))
            print(table(rows[-1:]).splitlines()[2], flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    print("\n" + table(rows) + "\n\n" + "\n".join(verdicts(rows)))


if __name__ == "__main__":
    main()
