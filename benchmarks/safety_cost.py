"""What safety costs a stage: with and without manifest, hashes, fsync, checkpoints and journal.

    python -m benchmarks.safety_cost --stage ppo --pairs 5

The embedded default in its real size, shortened; the stage is trained once with all of it and once
without, in turn, in one process, and the ratio of each pair is shown. `without` is this benchmark's
own: nothing is synced or hashed, reports go nowhere and no state is saved. `with` syncs, hashes,
keeps a journal and saves a checkpoint as often as `--checkpoint-seconds` says (60 is the default of
a run; a shortened stage saves its last state at least). Beside other jobs the clock says little:
processor time is shown too, which leaves out only the waits for the disk.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.children import RECIPE
from rlhf_core.artifacts import publish_artifact, verify_artifact
from rlhf_core.checkpoints import Checkpoints
from rlhf_core.recipes import load_recipe
from rlhf_core.report import Report, ignore
from rlhf_core.settings.base import Stage
from rlhf_core.settings.recipe import Recipe
from tasks.run_journal import open_journal

SHORT = (
    "data.world={demonstrations: 1000, rankings: 300, pairs: 40, prompts: 200}",
    "sft.epochs=1",
    "reward_model.mismatch_rows=200",
    "ppo.updates=4",
    "ppo.value_warmup_updates=0",
)
"""What shortens the recipe; the models and batches are its own."""


@dataclass(frozen=True)
class Took:
    """Seconds of one run, by the clock and of the processor."""

    clock: float
    processor: float


@dataclass(frozen=True)
class Pair:
    """One run with all safety and one without, and which of them came first."""

    safe: Took
    bare: Took
    safe_came_first: bool


def train(
    recipe: Recipe, stage: Stage, inputs: Path, out_dir: Path, report: Report, **more: Any
) -> None:
    """Run a stage of the core into `out_dir`; those before it lie in `inputs`."""
    common: dict[str, Any] = {"out_dir": out_dir, "report": report, "seed": recipe.seed, **more}
    if stage == "data":
        from rlhf_core.stages.data import make_data

        make_data(recipe.data, recipe.model, **common)
        return
    common["data"] = inputs / "data"
    if stage == "sft":
        from rlhf_core.stages.sft import make_sft

        make_sft(recipe.sft, recipe.model, **common)
        return
    common["sft"] = inputs / "sft"
    if stage == "reward_model":
        from rlhf_core.stages.reward_model import make_reward_model

        make_reward_model(recipe.reward_model, recipe.model, **common)
        return
    from rlhf_core.stages.ppo import make_ppo

    make_ppo(recipe.ppo, recipe.model, reward_model=inputs / "reward_model", **common)


def safe(recipe: Recipe, stage: Stage, inputs: Path, folder: Path, every: float) -> None:
    """As a task runs it: inputs verified, state saved, reports kept, result published."""
    for made in sorted((inputs / "objects").iterdir()):
        verify_artifact(made)
    journal = open_journal(folder / "journal")

    def report(step: int, metrics: Any) -> None:
        journal.report(step, metrics)

    checkpoints = Checkpoints(
        folder / "checkpoints", {"stage": stage}, every_seconds=every, before_save=journal.sync
    )
    (folder / "payload").mkdir()
    train(recipe, stage, inputs, folder / "payload", report, checkpoints=checkpoints)
    journal.end_run("FINISHED", {})
    journal.close()
    publish_artifact(folder / "payload", folder / "objects", stage=stage, provenance={})


def bare(recipe: Recipe, stage: Stage, inputs: Path, folder: Path) -> None:
    """The same training and the same files, and nothing else."""
    (folder / "payload").mkdir()
    train(recipe, stage, inputs, folder / "payload", ignore)


@contextmanager
def nothing_synced() -> Iterator[None]:
    """Within, waiting for the disk takes no time."""
    with mock.patch.object(os, "fsync", return_value=None):
        yield


def seconds(act: Callable[[Path], None], root: Path) -> Took:
    """How long it takes in a new folder."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        clock, processor = time.monotonic(), time.process_time()
        act(Path(folder))
        return Took(time.monotonic() - clock, time.process_time() - processor)


def measure(recipe: Recipe, stage: Stage, root: Path, *, pairs: int, every: float) -> list[Pair]:
    """Pairs of runs in turn, after one of each that nobody counts."""
    inputs = root / "inputs"
    stages: tuple[Stage, ...] = ("data", "sft", "reward_model", "ppo")
    for earlier in stages[: stages.index(stage)]:
        payload = root / f"payload-{earlier}"
        payload.mkdir(parents=True)
        train(recipe, earlier, inputs, payload, ignore)
        made = publish_artifact(payload, inputs / "objects", stage=earlier, provenance={})
        (inputs / earlier).symlink_to(made.path)

    def timed(*, safely: bool) -> Took:
        if safely:
            return seconds(partial(safe, recipe, stage, inputs, every=every), root)
        with nothing_synced():
            return seconds(partial(bare, recipe, stage, inputs), root)

    timed(safely=True), timed(safely=False)
    found = []
    for number in range(pairs):
        first = number % 2 == 0
        took = {kind: timed(safely=kind) for kind in (first, not first)}
        found.append(Pair(took[True], took[False], first))
        print(f"{stage}: with {took[True]}, without {took[False]}", flush=True)
    return found


def line(stage: str, pairs: list[Pair]) -> str:
    """The costs of a stage as a row of a Markdown table."""
    cells = [stage, str(len(pairs)), f"{statistics.median(pair.bare.clock for pair in pairs):.1f}"]
    for name in ("clock", "processor"):
        costs = [100 * (getattr(of.safe, name) / getattr(of.bare, name) - 1) for of in pairs]
        cells.append(f"{statistics.median(costs):+.1f} %")
        cells.append(f"{min(costs):+.1f} to {max(costs):+.1f} %")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure the stages and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", choices=("sft", "reward_model", "ppo"), action="append")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--checkpoint-seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path, help="write every pair here")
    arguments = parser.parse_args()
    recipe = load_recipe(RECIPE, SHORT)
    found: dict[str, list[Pair]] = {}
    for stage in arguments.stage or ("sft", "reward_model", "ppo"):
        with tempfile.TemporaryDirectory() as root:
            found[stage] = measure(
                recipe,
                stage,
                Path(root),
                pairs=arguments.pairs,
                every=arguments.checkpoint_seconds,
            )
    print("| stage | pairs | seconds without | by the clock | from, to | processor | from, to |")
    print("| --- " * 7 + "|")
    for stage, pairs in found.items():
        print(line(stage, pairs))
    if arguments.json:
        document = {stage: [asdict(pair) for pair in pairs] for stage, pairs in found.items()}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
