"""Damage every file of a store in every way, and see what each command makes of it.

    python -m benchmarks.damage --seed 1 --json damage.json

A tiny recipe is run to its end (or give the store and recipe of one with `--store`, `--recipe`).
Then each file that rlhf writes is damaged in turn: bits flipped at seeded places, cut, emptied,
zeroed, removed, replaced by a folder, by a link to nothing, or by JSON that means nothing. After
each damage all commands that read a store are asked. Each has to end with 0, or with a message and
a code of its own; a traceback is a defect. And one of them, that which relies on the file, has to
tell the damage: where it does not, that is silent.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from click.testing import CliRunner

from flows.cli import cli
from rlhf_core.errors import RlhfError
from tasks.reruns import plan_rerun
from tasks.store import Store

Outcome = Literal["told", "silent", "traceback"]
Damage = Callable[[Path, random.Random], object]
Answer = tuple[int, str]

RECIPE = """\
name: damage
seed: 1
data:
  world: {demonstrations: 240, rankings: 24, pairs: 6, prompts: 60, replies_per_ranking: 3}
  evaluation_share: 0.3
model:
  scratch: {hidden_size: 16, layers: 1, heads: 2, intermediate_size: 32}
sft: {batch_size: 16, learning_rate: 0.02}
reward_model: {batch_size: 16, normalization_rows: 16}
ppo: {updates: 2, rollout_batch_size: 8, mini_batch_size: 4, ppo_epochs: 1}
evaluation: {prompts: 8, best_of_n: 2, best_of_n_prompts: 4, bootstrap_samples: 100}
"""

FLIPS = 4
LINKED = "a link to nothing"
NONSENSE = {
    "an empty object": b"{}",
    "a list": b"[]",
    "a number": b"7",
    "not a number": b'{"files": NaN, "format": NaN, "stages": NaN}',
    "an object of lists": b'{"stages": [], "inputs": [], "runs": [], "digest": [], "stage": []}',
    "nested deeply": b"[" * 100_000,
    "not UTF-8": b"\xff\xfe{",
}


@dataclass(frozen=True)
class Trial:
    """What became of one damage to one file."""

    file: str
    kind: str
    damage: str
    outcome: Outcome
    by: tuple[str, ...]
    """The commands that told it, or that ended in a traceback."""


def flip(path: Path, chance: random.Random) -> None:
    """One random bit is another."""
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def cut(path: Path, chance: random.Random) -> None:
    """A random share of the end is gone."""
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content))])


def zero(path: Path, chance: random.Random) -> None:
    """From a random place on there are zeros, as after a power cut."""
    content = path.read_bytes()
    start = chance.randrange(len(content))
    path.write_bytes(content[:start] + bytes(len(content) - start))


def remove(path: Path, _chance: random.Random) -> None:
    """The file is gone."""
    path.unlink()


def become_folder(path: Path, _chance: random.Random) -> None:
    """A folder has its name."""
    path.unlink()
    path.mkdir()


def become_link(path: Path, _chance: random.Random) -> None:
    """A link to nothing has its name."""
    path.unlink()
    path.symlink_to("nowhere")


def replace_by(content: bytes) -> Damage:
    """Other content stands in it."""
    return lambda path, _chance: path.write_bytes(content)


def damages(kind: str) -> Iterator[tuple[str, Damage]]:
    """Every damage that such a file is put to."""
    for number in range(FLIPS):
        yield f"bit {number}", flip
    yield from (("cut", cut), ("zeros", zero), ("empty", replace_by(b"")), ("gone", remove))
    yield from (("a folder", become_folder), (LINKED, become_link))
    if kind != "payload":
        for name, content in NONSENSE.items():
            yield name, replace_by(content)


def kinds(store: Path) -> dict[Path, str]:
    """Every file of the store that rlhf itself writes and reads, with its kind."""
    found = {}
    for path in sorted(store.rglob("*")):
        if not path.is_file():
            continue
        place = path.relative_to(store).parts[0]
        if place == "objects":
            kind = path.stem if path.name in ("manifest.json", "provenance.json") else "payload"
        elif place in ("commits", "runs", "stages"):
            kind = f"{place}{path.suffix}" if place == "runs" else place
        else:
            continue
        found[path] = kind
    return found


@dataclass(frozen=True)
class Finished:
    """A store in which a recipe was run to its end."""

    store: Path
    recipe: Path
    digest: str
    """Of the evaluation, from which every other artifact is reached."""

    run_id: str


def finished(store: Path, recipe: Path) -> Finished:
    """The store's one run, whose recipe has to be the one given."""
    commit = next(Store(store).commits.glob("evaluation-*.json"))
    run = next(Store(store).runs.glob("*.json"))
    return Finished(store, recipe, json.loads(commit.read_text())["digest"], run.stem)


def asked(of: Finished) -> dict[str, Answer]:
    """Exit code and output of every command that reads a store; a traceback is code -1."""
    digest = of.digest
    commands = {
        "verify": ["verify", digest],
        "lineage": ["lineage", digest],
        "diff": ["diff", digest, digest],
        "rows": ["rows", digest, "--row", "prompts-train:0"],
        "plan": ["plan", str(of.recipe)],
        "runs": ["runs"],
        "store ls": ["store", "ls"],
        "store du": ["store", "du"],
        "store gc": ["store", "gc", "--dry-run"],
    }
    told = {}
    for name, command in commands.items():
        result = CliRunner().invoke(cli, [*command, "--store", str(of.store)])
        error = result.exception
        if isinstance(error, RlhfError):
            told[name] = (error.exit_code, f"{result.output}\n{error}")
        elif error is not None and not isinstance(error, SystemExit):
            told[name] = (-1, repr(error))
        else:
            told[name] = (result.exit_code, result.output)
    told["rerun"] = _rerun(of)
    return told


def _rerun(of: Finished) -> Answer:
    try:
        plan_rerun(Store(of.store), of.run_id, "evaluation")
    except RlhfError as error:
        return error.exit_code, str(error)
    except Exception as error:  # noqa: BLE001  # what is looked for
        return -1, repr(error)
    return 0, ""


def judged(
    before: Mapping[str, Answer], after: Mapping[str, Answer]
) -> tuple[Outcome, tuple[str, ...]]:
    """The outcome, and the commands that it is owed to."""
    fallen = tuple(name for name, (code, _) in after.items() if code == -1)
    if fallen:
        return "traceback", fallen
    told = tuple(name for name in after if after[name] != before[name])
    if told:
        return "told", told
    return "silent", ()


def main() -> None:
    """Damage every file, print the table, and fail where anything is silent or falls."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base, recipe = Path(folder) / "base", Path(folder) / "recipe.yaml"
        if arguments.store:
            shutil.copytree(arguments.store, base)
            recipe = arguments.recipe
        else:
            recipe.write_text(RECIPE)
            command = "from flows.cli import main; main()"
            run = [sys.executable, "-c", command, "run", str(recipe), "--store", str(base)]
            subprocess.run(run, check=True, stdout=subprocess.DEVNULL, env=os.environ)
        trials = measure(finished(base, recipe), arguments.seed)
    print(table(trials))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(made) for made in trials], indent=1) + "\n")
    sys.exit(any(made.outcome != "told" for made in trials))


def measure(of: Finished, seed: int) -> list[Trial]:
    """Every damage to every file of the store, one at a time."""
    chance = random.Random(seed)
    before = asked(of)
    if any(code for code, _ in before.values()):
        raise SystemExit(f"The commands fail before anything is damaged: {before}")
    trials = []
    for path, kind in kinds(of.store).items():
        content, mode = path.read_bytes(), path.stat().st_mode
        for name, act in damages(kind) if content else ():
            path.chmod(0o644)
            act(path, chance)
            if not path.is_symlink() and path.is_file() and path.read_bytes() == content:
                continue  # zeros in place of zeros
            outcome, by = judged(before, asked(of))
            trials.append(Trial(str(path.relative_to(of.store)), kind, name, outcome, by))
            if outcome != "told":
                print(f"{outcome:9} {name:12} {trials[-1].file} {', '.join(by)}", flush=True)
            restore(path, content, mode)
    return trials


def restore(path: Path, content: bytes, mode: int) -> None:
    """The file is as it was."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def table(trials: list[Trial]) -> str:
    """How the damages ended, by kind of file, as Markdown."""
    names: tuple[Outcome, ...] = ("told", "silent", "traceback")
    lines = [f"| file | damages | {' | '.join(names)} |", "| --- " * 5 + "|"]
    for kind in dict.fromkeys(made.kind for made in trials):
        counts = Counter(made.outcome for made in trials if made.kind == kind)
        cells = " | ".join(str(counts[name]) for name in names)
        lines.append(f"| {kind} | {sum(counts.values())} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
