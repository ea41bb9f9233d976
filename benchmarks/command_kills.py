"""Kill `rlhf run` at random moments, start it again until it ends, and compare all that it says.

    python -m benchmarks.command_kills --kills 10 --seed 1 --json command-kills.json

The embedded world in a small size, each trial in a fresh store with MLflow's and Prefect's
databases in it, a checkpoint after every step. A reference run is never killed. Each trial's
command is killed with SIGKILL at a moment drawn uniformly over the reference's duration, every
second one again when it was started anew, and then runs to its end. Compared with the reference
are, by stage, the artifact's digest, and the metric series (step, name, value as a hexadecimal
float) of the journal and of MLflow; no journal may hold a step twice, and no MLflow run may stay
open.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.children import RECIPE, SMALL
from rlhf_core.history import NOT_RECORDED
from tasks.journal import read_records
from tasks.run_journal import SUFFIX
from tasks.store import JOURNAL, WORK

TINY = (
    *SMALL,
    "sft.epochs=2",
    "ppo.updates=6",
    "evaluation.prompts=16",
    "evaluation.best_of_n=2",
    "evaluation.best_of_n_prompts=4",
    "evaluation.bootstrap_samples=100",
)
RLHF = "import sys; from flows.cli import main; sys.argv[0] = 'rlhf'; main()"
LONGEST_SECONDS = 900.0
LINK_SECONDS = 0.02

Point = tuple[int, str, str]
"""Step, name, and value as a hexadecimal float; without the value where equal runs differ in it."""


@dataclass(frozen=True)
class Trial:
    """What became of one store whose command was killed."""

    number: int
    killed_at_seconds: tuple[float, ...]
    killed_in: tuple[str, ...]
    differing: tuple[str, ...]


def point(step: int, name: str, value: float) -> Point:
    """One number that was said of a run."""
    return step, name, "" if name in NOT_RECORDED else float(value).hex()


def digest(series: Iterable[Point]) -> str:
    """SHA-256 of a metric series, in the order of its steps."""
    lines = "\n".join(" ".join(map(str, said)) for said in sorted(series))
    return hashlib.sha256(lines.encode()).hexdigest()


def outcome(store: Path) -> dict[str, str]:
    """Everything that has to be as in a run that was never killed."""
    return _artifacts(store) | _journal_series(store) | _mlflow_series(store)


def _artifacts(store: Path) -> dict[str, str]:
    commits = (json.loads(path.read_text()) for path in (store / "commits").glob("[!.]*.json"))
    return {f"artifact of {commit['stage']}": commit["digest"] for commit in commits}


def _journal_series(store: Path) -> dict[str, str]:
    said: dict[str, list[Point]] = {}
    for path in _links(store).glob("*"):
        stage = path.name.partition("-")[0]
        for record, _ in read_records(path):
            if record["kind"] == "metrics":
                said.setdefault(stage, []).extend(
                    point(record["step"], name, value) for name, value in record["values"].items()
                )
    found = {f"journal of {stage}": digest(series) for stage, series in said.items()}
    for stage, series in said.items():
        places = Counter((step, name) for step, name, _ in series)
        found |= {f"{place} of {stage}": "said twice" for place, n in places.items() if n > 1}
    return found


def _mlflow_series(store: Path) -> dict[str, str]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found: dict[str, str] = {}
    for run in client.search_runs(experiments):
        stage = run.data.tags.get("stage")
        if run.info.status == "RUNNING":
            found[f"MLflow run {run.info.run_id} of {stage or 'the pipeline'}"] = "still open"
        if stage is None:
            continue
        history = (client.get_metric_history(run.info.run_id, name) for name in run.data.metrics)
        series = [point(said.step, said.key, said.value) for points in history for said in points]
        name = f"MLflow run of {stage}"
        name = f"second {name}" if name in found else name
        found[name] = f"{run.info.status} {digest(series)}"
    return found


def _links(store: Path) -> Path:
    return store.with_name(f"{store.name}-journals")


@contextmanager
def journals_kept(store: Path) -> Iterator[None]:
    """Every stage's journal gets a second name, under which it stays when it was shipped whole."""
    ended = threading.Event()

    def link() -> None:
        while not ended.wait(LINK_SECONDS):
            for path in store.glob(f"{WORK}/*/{JOURNAL}/*{SUFFIX}"):
                kept = _links(store) / f"{path.parts[-3].partition('-')[0]}-{path.name}"
                if not kept.exists():
                    kept.hardlink_to(path)

    _links(store).mkdir()
    thread = threading.Thread(target=link)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def start(store: Path) -> subprocess.Popen[bytes]:
    """The command on the store, with its words in a file beside it."""
    overrides = [part for override in TINY for part in ("--set", override)]
    with store.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [*(sys.executable, "-c", RLHF, "run", str(RECIPE)), *overrides, "--store", str(store)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "RLHF_CHECKPOINT_SECONDS": "0"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def finish(store: Path) -> str | None:
    """Run the command to its end; what went wrong, if anything did."""
    with start(store) as command:
        try:
            code = command.wait(LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            command.kill()
            return "it hangs"
    return f"exit code {code}" if code else None


def stage_at_work(store: Path) -> str:
    """Where the store stands: the stage whose work is there, or what is done."""
    working = sorted(path.name.partition("-")[0] for path in store.glob(f"{WORK}/*"))
    done = len(list(store.glob("commits/[!.]*.json")))
    return working[0] if working else f"after {done} stages"


def trial(folder: Path, number: int, moments: Sequence[float], right: dict[str, str]) -> Trial:
    """Kill the command at each of the moments in turn, then let it end and compare."""
    store = folder / f"trial-{number}"
    places, at = [], []
    with journals_kept(store):
        for moment in moments:
            with start(store) as command:
                try:
                    command.wait(moment)
                    break
                except subprocess.TimeoutExpired:
                    places.append(stage_at_work(store))
                    at.append(round(moment, 1))
                    command.kill()
        fault = finish(store)
    found = outcome(store) if fault is None else {"end": fault}
    names = sorted(right.keys() | found.keys())
    wrong = [
        f"{name}: {found.get(name)} in the place of {right.get(name)}"
        for name in names
        if right.get(name) != found.get(name)
    ]
    return Trial(number, tuple(at), tuple(places), tuple(wrong))


def measure(folder: Path, *, kills: int, seed: int) -> list[Trial]:
    """The trials that were killed at least once."""
    reference = folder / "reference"
    started = time.monotonic()
    with journals_kept(reference):
        fault = finish(reference)
    if fault is not None:
        raise SystemExit(
            f"The reference run: {fault}.\n{reference.with_suffix('.log').read_text()}"
        )
    seconds = time.monotonic() - started
    right = outcome(reference)
    print(f"reference: {seconds:.1f} s, {len(right)} things compared", flush=True)
    generator = random.Random(seed)
    trials: list[Trial] = []
    number = 0
    while len(trials) < kills:
        number += 1
        moments = [generator.uniform(0, seconds) for _ in range(1 + (number % 2 == 0))]
        made = trial(folder, number, moments, right)
        if made.killed_in or made.differing:
            trials.append(made)
            words = "differs" if made.differing else "identical"
            print(f"{number:4} {words:9} {', '.join(made.killed_in)}", flush=True)
            for line in made.differing:
                print(f"     {line}", flush=True)
    return trials


def main() -> None:
    """Measure, and fail unless every trial is identical."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write every trial here")
    parser.add_argument("--keep", type=Path, help="an empty folder in which the stores stay")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trials = measure(arguments.keep or Path(folder), kills=arguments.kills, seed=arguments.seed)
    good = sum(not made.differing for made in trials)
    places = Counter(place for made in trials for place in made.killed_in)
    print(f"{good} of {len(trials)} identical; kills hit {dict(sorted(places.items()))}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(made) for made in trials], indent=1) + "\n")
    sys.exit(good != len(trials))


if __name__ == "__main__":
    main()
