"""Plant faults in PPO one by one, and see whether the sentinel names the right cause of each.

    python -m benchmarks.faults --store faults-store --json faults.json

The embedded world in a small size; SFT policy and reward models are trained once and kept in the
store folder. Each fault is one PPO run with something replaced in this process, and counts as named
where the verdict of a stop, of a refusal to start or else of the first warning names one of the
causes that were written down beforehand. Healthy runs with other seeds must raise no stop.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.planted import FAULTS, Fault, planted
from rlhf_core.checkpoints import Checkpoints
from rlhf_core.errors import TrainingStopped
from rlhf_core.pretrained import save_model
from rlhf_core.readings import READINGS, ReadText, read_readings, write_readings
from rlhf_core.report import ignore
from rlhf_core.reward_models import load_reward_model
from rlhf_core.sentinel.causes import CAUSES
from rlhf_core.settings.recipe import Recipe
from rlhf_core.stages.data import make_data
from rlhf_core.stages.ppo import make_ppo
from rlhf_core.stages.reward_model import make_reward_model
from rlhf_core.stages.sft import make_sft

RECIPE = Recipe.model_validate(
    {
        "name": "faults",
        "data": {
            "world": {"demonstrations": 4000, "rankings": 2400, "pairs": 200, "prompts": 3000}
        },
        "model": {
            "scratch": {
                "hidden_size": 64,
                "layers": 2,
                "heads": 4,
                "intermediate_size": 172,
            },
            "prompt_template": "{prompt} ->",
            "max_prompt_tokens": 40,
            "max_response_tokens": 44,
        },
        "sft": {"batch_size": 8, "learning_rate": 2e-3, "samples": 0},
        "reward_model": {
            "batch_size": 32,
            "micro_batch_size": 16,
            "learning_rate": 2e-3,
            "mismatch_rows": 3000,
            "token_loss_weight": 1.0,
        },
        "ppo": {
            "updates": 12,
            "rollout_batch_size": 96,
            "mini_batch_size": 32,
            "ppo_epochs": 1,
            "learning_rate": 1e-3,
            "warmup_updates": 2,
        },
    }
)
"""The support desk of `recipes/support-desk.yaml` in a small size."""

SWAPPED = "swapped"


@dataclass(frozen=True)
class Outcome:
    """What became of one run."""

    name: str
    how: str
    """`refused`, `stopped at N`, `warned` or `finished`."""
    cause: str
    right: bool
    verdict: str
    seconds: float


def prepare(store: Path) -> None:
    """Data, SFT policy and reward models are in the store folder, made where they are not."""
    made: dict[str, Path] = {}
    makers: Sequence[tuple[str, Callable[..., dict[str, float]], Any]] = (
        ("data", make_data, RECIPE.data),
        ("sft", make_sft, RECIPE.sft),
        ("reward_model", make_reward_model, RECIPE.reward_model),
    )
    for stage, make, settings in makers:
        folder = store / stage
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=store) as temporary:
                out_dir = Path(temporary) / stage
                out_dir.mkdir()
                make(settings, RECIPE.model, **made, out_dir=out_dir, report=ignore, seed=1)
                out_dir.rename(folder)
        made[stage] = folder
    if not (store / SWAPPED).is_dir():
        swap(store / "reward_model", store / SWAPPED)


def swap(reward_model: Path, folder: Path) -> None:
    """Write the reward model that swapped labels would have made: every score negated."""
    shutil.copytree(reward_model, folder)
    model = load_reward_model(reward_model).first
    with torch.no_grad():
        model.head.weight.neg_()
        model.head.bias.neg_()
    save_model(model.model, folder)
    (folder / READINGS).unlink()
    readings = read_readings(reward_model)
    write_readings(folder, [ReadText(of.prompt, of.response, -of.value) for of in readings])
    card = json.loads((reward_model / "scorecard.json").read_text())
    low, high = 1 - card["accuracy_high"], 1 - card["accuracy_low"]
    card |= {"accuracy": 1 - card["accuracy"], "accuracy_low": low, "accuracy_high": high}
    (folder / "scorecard.json").write_text(json.dumps(card))


def run(fault: Fault, store: Path, *, seed: int) -> Outcome:
    """One PPO run with the fault in it."""
    settings = RECIPE.ppo.model_validate({**RECIPE.ppo.model_dump(), **fault.ppo})
    model = RECIPE.model.model_copy(update=dict(fault.model))
    told: list[str] = []
    started = time.monotonic()
    how, cause, verdict = "finished", "", ""
    with tempfile.TemporaryDirectory() as temporary, planted(fault):
        out_dir = Path(temporary) / "ppo"
        out_dir.mkdir()
        checkpoints = Checkpoints(
            Path(temporary) / "checkpoints", {}, every_seconds=None, notice=told.append
        )
        try:
            make_ppo(
                settings,
                model,
                data=store / "data",
                sft=store / "sft",
                reward_model=store / (SWAPPED if fault.swapped else "reward_model"),
                out_dir=out_dir,
                report=ignore,
                seed=seed,
                checkpoints=checkpoints,
            )
        except TrainingStopped as stopped:
            verdict = str(stopped)
            cause = stopped.diagnosis.get("cause", "")
            step = stopped.diagnosis.get("step", 0)
            how = f"stopped at {step}" if step else "refused"
        else:
            for line in told:
                named = [name for name, of in CAUSES.items() if of.sentence_part in line]
                if named:
                    how, cause, verdict = "warned", named[0], line
                    break
    right = cause in fault.causes if fault.causes else not how.startswith(("stopped", "refused"))
    return Outcome(fault.name, how, cause, right, verdict, time.monotonic() - started)


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as Markdown, a row per run."""
    rows = [
        ["fault", "what became of it", "cause named", "right", "seconds"],
        ["---"] * 5,
        *(
            [of.name, of.how, of.cause, "yes" if of.right else "NO", f"{of.seconds:.0f}"]
            for of in outcomes
        ),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Run every fault and the healthy seeds, and print the table and the count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True, help="keeps the trained models")
    parser.add_argument("--only", default="", help="faults whose name holds this")
    parser.add_argument("--healthy", type=int, default=10, help="healthy runs, each a seed")
    parser.add_argument("--json", type=Path, help="write all outcomes here")
    arguments = parser.parse_args()
    arguments.store.mkdir(parents=True, exist_ok=True)
    prepare(arguments.store)
    chosen = [(fault, 1) for fault in FAULTS if arguments.only in fault.name]
    chosen += [
        (Fault(f"none, seed {seed}", frozenset()), seed) for seed in range(1, arguments.healthy + 1)
    ]
    outcomes: list[Outcome] = []
    for fault, seed in chosen:
        outcomes.append(run(fault, arguments.store, seed=seed))
        print(table(outcomes[-1:]).splitlines()[2], flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps([asdict(of) for of in outcomes], indent=1) + "\n")
    faults = [of for of in outcomes if not of.name.startswith("none, ")]
    healthy = [of for of in outcomes if of.name.startswith("none, ")]
    print("\n" + table(outcomes))
    print(f"\n{sum(of.right for of in faults)} of {len(faults)} faults were named rightly")
    print(f"{sum(of.right for of in healthy)} of {len(healthy)} healthy runs raised no stop")


if __name__ == "__main__":
    main()
