"""Compare PPO with what users compare it with, on the embedded world, over several seeds.

    python -m benchmarks.methods --seeds 1-5 --keep FOLDER --json methods.json

Every method starts from the same SFT policy and reward model of its seed, which are made once, and
is judged by gold on the same prompts, which no stage has seen. What is finished in FOLDER is not
computed again where its fingerprint is the same. Seconds are those that the processors worked on
the method's own training, that of SFT and reward model left out, so that other load counts for
nothing.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from benchmarks.support_desk import RECIPE, Figures, seeds_of
from rlhf_core.evaluation.measures import best_of_n_kl, win_points
from rlhf_core.recipes import load_recipe
from rlhf_core.report import ignore
from rlhf_core.settings.base import Settings, Stage
from rlhf_core.settings.recipe import Recipe
from rlhf_core.stages.data import make_data
from rlhf_core.stages.evaluation import make_evaluation
from rlhf_core.stages.ppo import make_ppo
from rlhf_core.stages.reward_model import make_reward_model
from rlhf_core.stages.sft import make_sft
from tasks.fingerprints import stage_fingerprint

METHODS: Mapping[str, tuple[str, ...]] = {
    "DPO": (
        "ppo.algorithm=dpo",
        "ppo.learning_rate=2e-4",
        "ppo.kl_coef=0.1",
        "ppo.warmup_updates=20",
    ),
    "RLOO": ("ppo.algorithm=rloo", "ppo.responses_per_prompt=4"),
    "GRPO": ("ppo.algorithm=grpo", "ppo.responses_per_prompt=4"),
    "PPO": (),
    "PPO, shared trunk": ("ppo.value_network=shared_trunk",),
    "PPO, LoRA": ("ppo.lora.rank=16", "ppo.learning_rate=3e-3"),
    "PPO, ptx": ("data.world.texts=2000", "ppo.ptx.grad_norm_ratio=0.1"),
}
"""What differs from `recipes/support-desk.yaml`, whose `ppo` section is the method `PPO`."""

BEST_OF: Mapping[str, int] = {"DPO": 16, "RLOO": 4}
"""Method with whose evaluation best-of-n of the SFT policy is measured, and n."""

BASELINES = ("SFT", "best-of-4", "best-of-16")

Row = dict[str, float | str]
"""Figures of one method and one seed."""


@dataclass(frozen=True)
class Workshop:
    """Where one seed's stages are made, each once."""

    folder: Path

    def made(
        self,
        recipe: Recipe,
        stage: Stage,
        make: Callable[..., Figures],
        settings: Settings,
        **inputs: "Made",
    ) -> "Made":
        """The stage's folder and fingerprint; computed unless that fingerprint is there."""
        digests = {role: made.fingerprint for role, made in inputs.items()}
        fingerprint = stage_fingerprint(recipe, stage, digests).digest
        out_dir, done = self.folder / fingerprint, self.folder / f"{fingerprint}.json"
        if not done.exists():
            with _fresh(out_dir):
                started = time.process_time()
                make(
                    settings,
                    recipe.model,
                    **{role: made.folder for role, made in inputs.items()},
                    out_dir=out_dir,
                    report=ignore,
                    seed=recipe.seed,
                )
                seconds = time.process_time() - started
            done.write_text(json.dumps({"stage": stage, "seconds": seconds}))
        return Made(out_dir, fingerprint, json.loads(done.read_text())["seconds"])


@dataclass(frozen=True)
class Made:
    """A finished stage."""

    folder: Path
    fingerprint: str
    seconds: float


@contextmanager
def _fresh(folder: Path) -> Iterator[None]:
    """An empty folder; one that was left unfinished makes room for it."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    yield


def measure(seed: int, folder: Path, methods: Sequence[str], overrides: Sequence[str]) -> list[Row]:
    """The rows of one seed: the baselines and the methods."""
    workshop = Workshop(folder)
    base = load_recipe(RECIPE, [f"seed={seed}", *overrides])
    made = {"data": workshop.made(base, "data", make_data, base.data)}
    made["sft"] = workshop.made(base, "sft", make_sft, base.sft, **made)
    made["reward_model"] = workshop.made(
        base, "reward_model", make_reward_model, base.reward_model, **made
    )
    rows: list[Row] = []
    for name in methods:
        n, count = (BEST_OF[name], 128) if name in BEST_OF else (2, 2)
        measuring = [
            f"evaluation.best_of_n={n}",
            f"evaluation.best_of_n_prompts={count}",
            f"evaluation.shown_samples={base.evaluation.prompts}",
        ]
        settings = [f"seed={seed}", *overrides, *METHODS[name], *measuring]
        recipe = load_recipe(RECIPE, settings)
        made["data"] = workshop.made(recipe, "data", make_data, recipe.data)
        ppo = workshop.made(recipe, "ppo", make_ppo, recipe.ppo, **made)
        evaluation = workshop.made(
            recipe, "evaluation", make_evaluation, recipe.evaluation, **made, ppo=ppo
        )
        graded = read_graded(evaluation.folder)
        metrics = json.loads((evaluation.folder / "metrics.json").read_text())["metrics"]
        if len(rows) == 0:
            rows.append(row(seed, "SFT", graded, "sft", kl=0.0, seconds=0.0))
        if name in BEST_OF:
            kl = best_of_n_kl(n)
            rows.append(row(seed, f"best-of-{n}", graded, "best_of_n", kl=kl, seconds=0.0))
        kl = metrics["kl_to_reference"]
        rows.append(row(seed, name, graded, "ppo", kl=kl, seconds=ppo.seconds))
        print(" | ".join(f"{value}" for value in rows[-1].values()), flush=True)
    return rows


Graded = Sequence[Mapping[str, float]]
"""For each held-out prompt the gold grade of every set of answers to it."""


def read_graded(evaluation: Path) -> Graded:
    """The grades that the evaluation wrote beside its samples."""
    lines = (evaluation / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        {name: answer["gold"] for name, answer in json.loads(line)["answers"].items()}
        for line in lines
    ]


def row(seed: int, method: str, graded: Graded, name: str, *, kl: float, seconds: float) -> Row:
    """One line of the figures; the win rate is over SFT on the prompts that both answered."""
    both = [grades for grades in graded if name in grades]
    ours, sft = ([grades[who] for grades in both] for who in (name, "sft"))
    return {
        "seed": seed,
        "method": method,
        "gold": fmean(ours),
        "win_rate": fmean(win_points(ours, sft)),
        "kl": kl,
        "seconds": seconds,
    }


def table(rows: Sequence[Row]) -> str:
    """Mean and standard deviation over the seeds of every method, as Markdown."""
    shown = ("gold", "win_rate", "kl", "seconds")
    lines = ["| method | seeds | gold | win rate over SFT | KL, nats | processor seconds |"]
    lines.append("|---|---|---|---|---|---|")
    for method in [*BASELINES, *METHODS]:
        own = [row for row in rows if row["method"] == method]
        if not own:
            continue
        cells = [_spread([float(row[name]) for row in own], name) for name in shown]
        lines.append(f"| {method} | {len(own)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float], name: str) -> str:
    digits = {"seconds": 0, "kl": 1}.get(name, 3)
    mean = f"{fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {stdev(values):.{digits}f}"


def main() -> None:
    """Measure every seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="1-5", help="1-5 or 1,3,5")
    parser.add_argument("--methods", default=";".join(METHODS), help="some of them, by semicolon")
    parser.add_argument("--set", action="append", default=[], help="override, as of `rlhf run`")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--keep", type=Path, help="keep what is made in this folder")
    arguments = parser.parse_args()
    methods = [name.strip() for name in arguments.methods.split(";")]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        for seed in seeds_of(arguments.seeds):
            rows += measure(seed, folder / f"seed-{seed}", methods, arguments.set)
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    print("\n" + table(rows))


if __name__ == "__main__":
    main()
