"""Kill a stage at random moments, let it resume until done, and compare it bit for bit.

    python -m benchmarks.kills --stage ppo --kills 50 --seed 1 --json kills.json

The embedded world in a small size; a checkpoint after every step, so that many kills hit a save. A
reference run is never killed. Each trial is killed at a moment drawn uniformly over the reference's
duration, every second one again while it recovers; then it runs to its end. Weights, optimizer
state, generators and all else of the payload and of the last checkpoint are compared with the
reference's by SHA-256, and so is the metric series that the stage recorded (step, name, value as a
hexadecimal float), in which no step may stand twice. `--signal TERM` asks instead of killing: the
stage has to leave with 143 within ten seconds, or, while it loads, at once.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from benchmarks.children import Bench, Job, after
from rlhf_core.folders import digest, files_below, sha256_of
from rlhf_core.history import read_history
from rlhf_core.settings.base import Stage

Outcome = Literal["identical", "refused", "differs", "hang"]


@dataclass(frozen=True)
class Trial:
    """What became of one stage run that was killed."""

    number: int
    outcome: Outcome
    killed_at_seconds: tuple[float, ...]
    killed_in: tuple[str, ...]
    left_after_seconds: tuple[float, ...]
    differing: tuple[str, ...]
    notices: tuple[str, ...]


def hashes(job: Job) -> dict[str, str]:
    """SHA-256 of every file of the payload and of the last checkpoint, and of the series."""
    last = max(job.checkpoints.glob("step-*"))
    found = {f"payload/{name}": sha256_of(path) for name, path in files_below(job.payload).items()}
    saved = {f"checkpoint/{name}": sha256_of(path) for name, path in files_below(last).items()}
    series = [
        (record["step"], name, None if value is None else float(value).hex())
        for record in read_history(job.payload)
        for name, value in record.items()
        if name != "step"
    ]
    twice = Counter(said[:2] for said in series).most_common(1)[0]
    said = {"series": digest(series)} | ({f"{twice[0]}": "said twice"} if twice[1] > 1 else {})
    return found | saved | said


def hit(job: Job) -> str:
    """What the stage was doing when it was killed, as far as its folder tells."""
    if not job.checkpoints.is_dir():
        return "loading"
    names = [path.name for path in job.checkpoints.iterdir()]
    if any(name.startswith(".stage-") for name in names):
        return "save"
    if any(name.startswith(".remove-") for name in names):
        return "removal"
    return "training" if names else "first step"


def trial(bench: Bench, stage: Stage, number: int, moments: Sequence[float], signum: int) -> Trial:
    """Kill a run at each of the moments in turn, then let it end and compare."""
    job = bench.job(stage, f"trial-{number}")
    ends, places = [], []
    for moment in moments:
        ended = bench.interrupt(job, signum, after(moment))
        ends.append(ended)
        places.append(hit(job) if ended.was_hit else "ended before")
        if not ended.was_hit:
            break
    slow = any(end.exitcode is None for end in ends)
    exitcode = bench.finish(job) if ends[-1].was_hit else ends[-1].exitcode
    differing: tuple[str, ...] = ()
    outcome: Outcome = (
        "hang" if slow or exitcode is None else "refused" if exitcode else "identical"
    )
    if outcome == "identical":
        right, found = hashes(bench.job(stage, "reference")), hashes(job)
        names = sorted(right.keys() | found.keys())
        differing = tuple(name for name in names if right.get(name) != found.get(name))
        outcome = "differs" if differing else "identical"
    notices = job.work / "notices.txt"
    lines = notices.read_text(encoding="utf-8").splitlines() if notices.exists() else []
    if outcome == "identical":
        shutil.rmtree(job.work)
    return Trial(
        number,
        outcome,
        tuple(round(end.seconds, 3) for end in ends),
        tuple(places),
        tuple(round(end.left_after, 3) for end in ends),
        differing,
        tuple(line for line in lines if "continues after" not in line),
    )


def measure(
    bench: Bench, stage: Stage, *, kills: int, seed: int, signum: int
) -> tuple[float, list[Trial]]:
    """Seconds of the reference run, and the trials; a trial that ended before its kill is none."""
    needed: tuple[Stage, ...] = ("data", "sft", "reward_model", "ppo")
    for earlier in needed[: needed.index(stage)]:
        if not bench.job(earlier, "reference").payload.exists():
            _must_end(bench, earlier)
    seconds = _must_end(bench, stage)
    generator = random.Random(seed)
    trials: list[Trial] = []
    number = 0
    while len(trials) < kills:
        number += 1
        moments = [generator.uniform(0, seconds)]
        if number % 2 == 0:
            moments.append(generator.uniform(0, seconds / 2))
        made = trial(bench, stage, number, moments, signum)
        if made.killed_in != ("ended before",) or made.outcome != "identical":
            trials.append(made)
            print(f"{number:4} {made.outcome:9} {', '.join(made.killed_in)}", flush=True)
    return seconds, trials


def _must_end(bench: Bench, stage: Stage) -> float:
    job = bench.job(stage, "reference")
    started = time.monotonic()
    exitcode = bench.finish(job)
    if exitcode != 0:
        raise SystemExit(f"The reference run of {stage} ended with {exitcode}.")
    return time.monotonic() - started


def table(stage: str, seconds: float, trials: Sequence[Trial]) -> str:
    """How the trials ended, and where the kills hit, as Markdown."""
    outcomes = Counter(made.outcome for made in trials)
    places = Counter(place for made in trials for place in made.killed_in)
    counts = [str(outcomes[name]) for name in ("identical", "refused", "differs", "hang")]
    where = ", ".join(f"{place} {count}" for place, count in sorted(places.items()))
    return "\n".join(
        [
            "| stage | trials | identical | refused | differs | hang | seconds | kills hit |",
            "| --- " * 8 + "|",
            f"| {stage} | {len(trials)} | {' | '.join(counts)} | {seconds:.1f} | {where} |",
        ]
    )


def main() -> None:
    """Measure one stage, print the table, and fail unless every trial is identical."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", choices=("sft", "reward_model", "ppo"), required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--signal", choices=("KILL", "TERM", "INT"), default="KILL")
    parser.add_argument("--json", type=Path, help="write every trial here")
    arguments = parser.parse_args()
    signum = signal.Signals[f"SIG{arguments.signal}"]
    with tempfile.TemporaryDirectory() as folder:
        seconds, trials = measure(
            Bench(Path(folder)),
            arguments.stage,
            kills=arguments.kills,
            seed=arguments.seed,
            signum=signum,
        )
    print(table(arguments.stage, seconds, trials))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(made) for made in trials], indent=1) + "\n")
    sys.exit(any(made.outcome != "identical" for made in trials))


if __name__ == "__main__":
    main()
