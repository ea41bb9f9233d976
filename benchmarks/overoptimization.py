"""Show over-optimisation: without a KL penalty gold turns down while the paid score goes on rising.

    python -m benchmarks.overoptimization --store FOLDER --json overoptimization.json

`recipes/support-desk.yaml` with `kl_coef: 0`, more updates, and alarms that stop nothing, so that
the whole course is seen. Two runs from the same SFT policy: one is paid by
one reward model, the other by the least score of an ensemble. Both are watched by a reward model
that learnt from other rankings, and their kept policies are graded by gold. The pictures and pages
lie under FOLDER, in `one/evaluation` and `least/evaluation`.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from benchmarks.support_desk import RECIPE
from rlhf_core.checkpoints import Checkpoints
from rlhf_core.history import read_history
from rlhf_core.recipes import load_recipe
from rlhf_core.report import ignore
from rlhf_core.sentinel.alarms import BEFORE_STEPS
from rlhf_core.sentinel.watch import Sentinel
from rlhf_core.settings.recipe import Recipe
from rlhf_core.settings.sentinel import PpoSentinelSettings
from rlhf_core.stages.data import make_data
from rlhf_core.stages.evaluation import make_evaluation
from rlhf_core.stages.ppo import make_ppo
from rlhf_core.stages.reward_model import make_reward_model
from rlhf_core.stages.sft import make_sft

WITHOUT_STOPS: Mapping[str, object] = {
    "kl_to_reference": None,
    "entropy_share": None,
    "distinct_share": None,
    "approx_kl": None,
    "clip_fraction": None,
    "length_growth": None,
    "length_loss": None,
    "at_limit_rise": None,
    "ended_fall": None,
    "held_out_fall": None,
    "held_out_loss": None,
}
"""Alarms that are off, so that the policy runs as far as it will; what the held-out ones of the
default settings would have said is found by replaying the run's record."""

RUNS: Mapping[str, tuple[Mapping[str, object], Mapping[str, object]]] = {
    "one": ({}, {}),
    "least": ({"ensemble": {"members": 3, "kind": "seeds"}}, {"ensemble_score": "minimum"}),
}
"""Name to what differs in the sections `reward_model` and `ppo`."""


@dataclass(frozen=True)
class Course:
    """What became of one run."""

    updates: list[int]
    kl: list[float]
    score: list[float]
    gold: list[float]
    """Of the SFT policy first, and of each kept policy."""

    warned: int | None
    """Update at which a held-out alarm of the default settings warns."""

    stopped: int | None
    """Update at which one of them stops training."""

    seconds: float

    @property
    def best(self) -> int:
        """Place of the highest gold."""
        return max(range(len(self.gold)), key=self.gold.__getitem__)

    @property
    def fell_below_start(self) -> int | None:
        """First kept update after the best whose gold is below the SFT policy's."""
        later = range(self.best, len(self.gold))
        return next(
            (self.updates[place] for place in later if self.gold[place] < self.gold[0]), None
        )

    def told(self, name: str) -> str:
        """The course in lines."""
        rows = zip(self.updates, self.kl, self.score, self.gold, strict=True)
        lines = [f"{name}: update, KL in nats, score, gold"]
        lines += [
            f"  {update:5d} {kl:7.2f} {score:8.3f} {gold:6.3f}" for update, kl, score, gold in rows
        ]
        lines.append(
            f"  gold is highest after update {self.updates[self.best]} "
            f"({self.gold[self.best]:.3f}), {self.gold[-1]:.3f} at the end, "
            f"below its start from update {self.fell_below_start}; "
            f"the held-out alarms warn at update {self.warned} and stop at {self.stopped} "
            f"({self.seconds:.0f} s)"
        )
        return "\n".join(lines)


def recipe_of(name: str, *, updates: int, overrides: Sequence[str]) -> Recipe:
    """The recipe without a penalty, watched by a held-out reward model."""
    values = load_recipe(RECIPE, overrides).model_dump()
    reward_model, ppo = RUNS[name]
    values["reward_model"] |= {"held_out": "other_rows", "held_out_share": 0.5, **reward_model}
    values["ppo"] |= {
        "kl_coef": 0.0,
        "updates": updates,
        "learning_rate_schedule": "constant",
        "course": {"kept": 15},
        "sentinel": values["ppo"]["sentinel"] | WITHOUT_STOPS,
        **ppo,
    }
    values["evaluation"] |= {"best_of_n": 2}
    return Recipe.model_validate(values)


def made(folder: Path, make: Callable[[Path], object]) -> Path:
    """The folder, made where it is not there yet."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            out_dir = Path(temporary) / "out"
            out_dir.mkdir()
            make(out_dir)
            out_dir.rename(folder)
    return folder


def run(name: str, recipe: Recipe, store: Path) -> Course:
    """Train and evaluate; what is in the store is not made again."""
    started = time.monotonic()
    model = recipe.model
    given: dict[str, Any] = {"report": ignore, "seed": 1}
    inputs: dict[str, Any] = {}
    data = made(store / "data", lambda out: make_data(recipe.data, model, out_dir=out, **given))
    sft = made(
        store / "sft", lambda out: make_sft(recipe.sft, model, data=data, out_dir=out, **given)
    )
    inputs |= {"data": data, "sft": sft}
    inputs["reward_model"] = made(
        store / name / "reward_model",
        lambda out: make_reward_model(recipe.reward_model, model, **inputs, out_dir=out, **given),
    )
    told: list[str] = []

    def train(out: Path) -> None:
        checkpoints = Checkpoints(out.parent / "states", {}, every_seconds=None, notice=told.append)
        make_ppo(recipe.ppo, model, **inputs, out_dir=out, checkpoints=checkpoints, **given)
        (out / "told.json").write_text(json.dumps(told))

    inputs["ppo"] = made(store / name / "ppo", train)
    evaluation = made(
        store / name / "evaluation",
        lambda out: make_evaluation(recipe.evaluation, model, **inputs, out_dir=out, **given),
    )
    return course_in(evaluation, inputs["ppo"], time.monotonic() - started)


def course_in(evaluation: Path, ppo: Path, seconds: float) -> Course:
    """What the evaluation wrote down of the course."""
    found = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))["course"]
    points = [found["start"], *found["points"]]
    warned, stopped = alarms_of(ppo)
    return Course(
        updates=[point["update"] for point in points],
        kl=[point["kl"] for point in points],
        score=[point["score"] for point in points],
        gold=[point["gold"] for point in points],
        warned=warned,
        stopped=stopped,
        seconds=seconds,
    )


class _Noted(NamedTuple):
    """A ladder that notes the first warning and the stop of each alarm."""

    warned: dict[str, int]

    def warn(self, name: str, text: str) -> None:
        """Note the update that the text speaks of."""
        self.warned.setdefault(name, int(text))

    def verdict(self, when: str, _symptom: str, _cause: str) -> str:
        """The update alone."""
        return when.rsplit(" ", 1)[-1]

    def stop(self, step: int, *_: object, **__: object) -> NoReturn:
        """Raise what ends the replay."""
        raise _StoppedAtError(step)


class _StoppedAtError(Exception):
    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


def alarms_of(ppo: Path) -> tuple[int | None, int | None]:
    """At which updates the held-out alarms of the default settings warn, and stop."""
    noted = _Noted({})
    sentinel = Sentinel(PpoSentinelSettings(), noted, {})
    watched = [alarm for alarm in BEFORE_STEPS if alarm.name.startswith("held_out")]
    try:
        for row in read_history(ppo):
            if "held_out_score" in row:
                numbers = {name: math.nan if of is None else of for name, of in row.items()}
                sentinel.remember(numbers)
                sentinel.look(int(numbers["step"]), numbers, watched, lambda _: {})
    except _StoppedAtError as stopped:
        return min(noted.warned.values(), default=stopped.step), stopped.step
    return min(noted.warned.values(), default=None), None


def main() -> None:
    """Run both and print their courses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True, help="keeps what is made")
    parser.add_argument("--json", type=Path, help="write the courses here")
    parser.add_argument("--updates", type=int, default=160)
    parser.add_argument("--set", action="append", default=[], help="override, as of `rlhf run`")
    parser.add_argument("--only", default="", help="runs whose name holds this")
    arguments = parser.parse_args()
    courses = {}
    for name in RUNS:
        if arguments.only in name:
            recipe = recipe_of(name, updates=arguments.updates, overrides=arguments.set)
            courses[name] = run(name, recipe, arguments.store)
            print(courses[name].told(name), flush=True)
    if arguments.json:
        found = {name: asdict(course) for name, course in courses.items()}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
