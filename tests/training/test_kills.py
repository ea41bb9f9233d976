"""Real processes that are killed or asked to end, as `benchmarks.kills` does it.

A server that has loaded torch once forks them, so that a trial costs a second or two.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import kills
from benchmarks.children import MOST_SECONDS_TO_LEAVE, SMALL, Bench, Job
from rlhf_core.checkpoints import Checkpoints

ROOT = Path(__file__).parents[2]

TINY = (
    *SMALL,
    "sft.epochs=2",
    "reward_model.mismatch_rows=100",
    "ppo.updates=4",
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("kills"), TINY)
    kills.measure(bench, "sft", kills=0, seed=1, signum=signal.SIGKILL)
    return bench


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "reward_model", "ppo"])
def test_a_killed_stage_resumes_to_the_same_bytes(bench: Bench, stage):
    _, trials = kills.measure(bench, stage, kills=3, seed=1, signum=signal.SIGKILL)
    assert [trial.outcome for trial in trials] == ["identical"] * 3, trials


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stage_that_is_asked_to_end_leaves_with_its_code_and_resumes(bench, signum):
    reference = bench.job("sft", "reference")
    job = bench.job("sft", f"asked-{signum}")
    ended = bench.interrupt(job, signum, when_saved(job))
    assert ended.exitcode == 128 + signum
    assert ended.left_after < MOST_SECONDS_TO_LEAVE
    assert not list(job.checkpoints.glob(".*"))
    assert bench.finish(job) == 0
    assert kills.hashes(job) == kills.hashes(reference)


@pytest.mark.slow
def test_a_second_signal_ends_a_stage_at_once_and_nothing_is_torn(bench: Bench):
    job = bench.job("sft", "twice")

    def twice(child) -> None:
        when_saved(job)(child)
        os.kill(child.pid, signal.SIGINT)

    ended = bench.interrupt(job, signal.SIGTERM, twice)
    assert ended.exitcode in (130, 143)
    assert ended.left_after < 1.0
    heard: list[str] = []
    checkpoints = Checkpoints(job.checkpoints, {"job": "sft"}, notice=heard.append)
    assert checkpoints.newest() is not None
    assert heard == []


def when_saved(job: Job):
    """A moment: as soon as the job has saved its third step."""

    def wait(child) -> None:
        while child.exitcode is None and not list(job.checkpoints.glob("step-0000000003-*")):
            time.sleep(0.005)

    return wait


SAVE_TWICE = """
import sys
from pathlib import Path
from rlhf_core.checkpoints import Checkpoints

checkpoints = Checkpoints(Path(sys.argv[1]), {"a": "b"})
checkpoints.prepare(1)
before = checkpoints.newest()
for step in range(before.step + 1 if before else 1, 5):
    def write(folder):
        for name in ("weights", "moments", "history"):
            (folder / name).write_bytes(str(step).encode() * 9)
    checkpoints.save(step, write, {})
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace injects the kills")
@pytest.mark.parametrize(
    "call", ["mkdir", "write", "fsync", "chmod,fchmodat", "rename,renameat2", "unlinkat", "rmdir"]
)
def test_a_kill_at_any_system_call_of_a_save_leaves_a_whole_newest_checkpoint(tmp_path, call):
    folder = tmp_path / "checkpoints"
    for when in range(1, 200):
        shutil.rmtree(folder, ignore_errors=True)
        done = save_under_strace(folder, f"inject={call}:signal=KILL:when={when}")
        if done == 0:
            break
        assert done in (-signal.SIGKILL, 128 + signal.SIGKILL), done
        heard: list[str] = []
        checkpoints = Checkpoints(folder, {"a": "b"}, notice=heard.append)
        checkpoints.prepare(1)
        found = checkpoints.newest()
        assert heard == []
        if found is not None:
            assert found.read("weights") == str(found.step).encode() * 9
    assert 1 < when < 199, "no kill was injected, or too many"


def save_under_strace(folder: Path, injection: str) -> int:
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", injection]
    python = [sys.executable, "-B", "-c", SAVE_TWICE, str(folder)]
    return subprocess.run(
        [*command, *python], cwd=ROOT, env=os.environ, check=False, timeout=60
    ).returncode
