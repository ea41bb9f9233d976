"""Let the system refuse what `rlhf run` asks of the disk, at seeded places, and see how it ends.

    python -m benchmarks.storage_faults --points 20 --seed 1 --json storage-faults.json

The recipe in a small size up to the SFT stage, each trial in a fresh store; one Prefect server
serves all. An undisturbed run is traced with `strace`: every write, sync, rename and new file in
its store, by thread. Each trial draws one of these and an error, and a run is traced in which each
thread's call of that number (or that and the four after it) fails so. Unless all was done, the
command is started again without the fault. Compared with the undisturbed run are the artifacts'
digests and the metric series of the journals and of MLflow.

`--case locked-30` and `--case locked` hold MLflow's SQLite file by BEGIN EXCLUSIVE for thirty
seconds, or until the command has ended; `--case files` publishes 10,000 files, `--case path` runs
in a store whose path has 250 characters, `--case large` publishes a file of 3 GB.
"""

import argparse
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from benchmarks.command_kills import journals_kept, outcome
from benchmarks.servers import prefect_server
from benchmarks.storage_cases import (
    Trial,
    judge,
    locked,
    long_path,
    published,
    start,
    wait,
    write_large,
    write_many,
)

CALLS = ("write", "pwrite64", "fsync", "fdatasync", "rename", "openat")
ERRORS = {
    "write": ("ENOSPC", "EDQUOT", "EIO"),
    "pwrite64": ("ENOSPC", "EDQUOT", "EIO"),
    "fsync": ("EIO", "ENOSPC"),
    "fdatasync": ("EIO", "ENOSPC"),
    "rename": ("EROFS", "ENOSPC", "EDQUOT"),
    "openat": ("EROFS", "ENOSPC", "EDQUOT"),
}
IN_A_ROW = 5
LOCKED_SECONDS = 30.0


class Point(NamedTuple):
    """The `number`-th call of a thread, and how it fails."""

    call: str
    number: int
    error: str
    in_a_row: int

    def options(self) -> list[str]:
        """What tells strace to let it fail."""
        when = f"{self.number}..{self.number + self.in_a_row - 1}"
        return [
            "-e",
            f"trace={self.call}",
            "-e",
            f"inject={self.call}:error={self.error}:when={when}",
        ]


def traced(store: Path, options: Sequence[str]) -> list[str]:
    """The command line of strace before the command; its lines go to a file beside the store."""
    own = ["strace", "-f", "--seccomp-bpf", "-y", "-s", "0", "-o", str(store.with_suffix(".trace"))]
    return [*own, *options]


def places(store: Path) -> list[tuple[str, int]]:
    """Call and number of each traced call by which a thread wrote to the store."""
    counted: dict[tuple[str, str], int] = {}
    found = []
    for line in store.with_suffix(".trace").read_text().splitlines():
        began = re.match(r"(\d+) +(\w+)\(", line)
        if began is None or began[2] not in CALLS:
            continue
        number = counted[began[1], began[2]] = counted.get((began[1], began[2]), 0) + 1
        writes = began[2] != "openat" or "O_CREAT" in line
        if writes and f"{store}/" in line:
            found.append((began[2], number))
    return found


def draw(found: Sequence[tuple[str, int]], points: int, seed: int) -> list[Point]:
    """Places and errors, each call as often as the others."""
    generator = random.Random(seed)
    drawn = []
    for number in range(points):
        calls = sorted({call for call, _ in found})
        call = calls[number % len(calls)]
        at = generator.choice([of for name, of in found if name == call])
        error = generator.choice(ERRORS[call])
        in_a_row = generator.choice((1, IN_A_ROW))
        # The next files are opened to be read, which no full disk refuses.
        drawn.append(Point(call, at, error, 1 if call == "openat" else in_a_row))
    return drawn


def hit_files(store: Path) -> str:
    """The files of the store for which a call failed, shortened."""
    lines = store.with_suffix(".trace").read_text().splitlines()
    failed = [line for line in lines if "(INJECTED)" in line]
    inside = re.findall(rf"{re.escape(str(store))}/([^\">]+)", "\n".join(failed))
    named = dict.fromkeys(re.sub(r"([0-9a-f]{6})[0-9a-f]{10,}", r"\1…", name) for name in inside)
    return ", ".join(named) or f"nothing of the store ({len(failed)} calls failed elsewhere)"


def reference(folder: Path, api: str) -> tuple[dict[str, str], list[tuple[str, int]]]:
    """What an undisturbed run comes to, and where it wrote."""
    store = folder / "reference"
    with journals_kept(store):
        code = wait(start(store, api, traced(store, ["-e", f"trace={','.join(CALLS)}"])))
    if code != 0:
        raise SystemExit(f"The undisturbed run ended with {code}: {store.with_suffix('.log')}")
    return outcome(store), places(store)


def fault(folder: Path, api: str, number: int, point: Point, right: Mapping[str, str]) -> Trial:
    """One run in which the point fails, and one after it."""
    store = folder / f"trial-{number}"
    began = time.monotonic()
    with journals_kept(store):
        code = wait(start(store, api, traced(store, point.options())))
        seconds = time.monotonic() - began
        how, said = judge(store, api, code, right)
    what = f"{point.error} of {point.call} {point.number}, {point.in_a_row} in a row"
    return Trial(what, hit_files(store), how, code, round(seconds, 1), said)


def measure(folder: Path, cases: Sequence[str], points: int, seed: int) -> list[Trial]:
    """Every case that was asked for, in turn; a line is printed for each."""
    trials: list[Trial] = []

    def note(trial: Trial) -> None:
        trials.append(trial)
        print(row(trial), flush=True)

    for name, write in (("files", write_many), ("large", write_large)):
        if name in cases:
            note(published(folder, name, write))
    if not {"points", "locked-30", "locked", "path"} & set(cases):
        return trials
    with prefect_server(folder) as api:
        right, found = reference(folder, api)
        print(f"reference: {len(found)} calls write to the store", flush=True)
        if "locked" in cases:
            note(locked(folder, api, right, None))
        if "locked-30" in cases:
            note(locked(folder, api, right, LOCKED_SECONDS))
        if "path" in cases:
            note(long_path(folder, api, right))
        if "points" in cases:
            for number, point in enumerate(draw(found, points, seed), start=1):
                note(fault(folder, api, number, point, right))
    return trials


def row(trial: Trial) -> str:
    """A row of the table."""
    code = "none" if trial.exit_code is None else str(trial.exit_code)
    said = trial.said.replace("|", "/").replace("\n", " ")[:300]
    return f"| {trial.what} | {trial.hit} | {trial.outcome} | {code} | {trial.seconds} | {said} |"


def main() -> None:
    """Measure, and fail where a trial ended badly."""
    cases = ("points", "locked-30", "locked", "files", "path", "large")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", action="append", choices=cases, help="all but `large` by default")
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write every trial here")
    parser.add_argument("--keep", type=Path, help="an empty folder in which the stores stay")
    arguments = parser.parse_args()
    print("| fault | hit | outcome | exit code | seconds | said |\n|" + " --- |" * 6, flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.keep or Path(temporary)).resolve()
        trials = measure(folder, arguments.case or cases[:-1], arguments.points, arguments.seed)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(trial) for trial in trials], indent=1) + "\n")
    sys.exit(any(trial.outcome not in ("same", "refused well") for trial in trials))


if __name__ == "__main__":
    main()
