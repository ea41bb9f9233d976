"""A lock holds between processes, says who has it, and dies with its process."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhf_core.errors import StorageError
from tasks.locks import StageLocks, hold, is_held, process_start, this_process

HOLD = """
import sys, time
from pathlib import Path
from tasks.locks import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path):
    """Another process that holds the lock `stage.lock`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "stage.lock")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_holder_is_refused_with_the_facts_of_the_first(other, tmp_path):
    with pytest.raises(StorageError) as refused, hold(tmp_path / "stage.lock"):
        pass
    assert f"process {other.pid} on {os.uname().nodename} since 20" in str(refused.value)
    assert str(refused.value).startswith("stage is being made by")


def test_the_lock_of_a_killed_process_is_free_by_itself(other, tmp_path):
    other.kill()
    other.wait()

    assert not is_held(tmp_path / "stage.lock")
    with hold(tmp_path / "stage.lock"):
        assert is_held(tmp_path / "stage.lock")
    assert not (tmp_path / "stage.lock").exists()


def test_whoever_waits_gets_the_lock_when_it_is_given_back(other, tmp_path):
    subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {other.pid}"]).wait()
    started = time.monotonic()
    with hold(tmp_path / "stage.lock", wait_seconds=30):
        assert time.monotonic() - started < 20


def test_prefects_lock_manager_knows_its_holders_and_refuses_others(tmp_path):
    mine, theirs = StageLocks(tmp_path), StageLocks(tmp_path)

    assert mine.acquire_lock("sft-1", "a")
    assert mine.acquire_lock("sft-1", "a")  # again, as Prefect may
    assert mine.is_lock_holder("sft-1", "a")
    assert not mine.is_lock_holder("sft-1", "b")
    assert theirs.is_locked("sft-1")
    assert not theirs.acquire_lock("sft-1", "b", acquire_timeout=0)
    assert not theirs.wait_for_lock("sft-1", timeout=0)
    with pytest.raises(StorageError, match="sft-1 is being made by process"):
        theirs.acquire_lock("sft-1", "b")
    with pytest.raises(ValueError, match="b does not hold"):
        mine.release_lock("sft-1", "b")

    mine.release_lock("sft-1", "a")
    assert theirs.acquire_lock("sft-1", "b")
    theirs.release_lock("sft-1", "b")


def test_the_locks_are_what_prefect_takes_for_a_lock_manager(tmp_path):
    from prefect.locking.protocol import LockManager

    assert isinstance(StageLocks(tmp_path), LockManager)


def test_a_process_is_told_from_a_later_one_of_the_same_number():
    holder = this_process()
    assert holder.is_alive()
    assert process_start(holder.pid) == holder.started_ticks
    later = type(holder)(holder.host, holder.boot_id, holder.pid, 1, holder.since)
    assert not later.is_alive()
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert process_start(gone.pid) is None
