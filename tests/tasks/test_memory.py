"""A stage without the memory that it needs says so; of one that was killed, the next start does."""

import errno
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tasks import memory
from tasks.memory import how_to_need_less, killed_for_memory, memory_now, ran_out_of_memory

MORE_THAN_THERE_IS = 1 << 60


def raised(act: Callable[[], object]) -> BaseException:
    with pytest.raises(Exception) as error:  # noqa: PT011  # whatever the library raises
        act()
    return error.value


def chained(error: BaseException) -> BaseException:
    def act() -> None:
        raise ValueError("as a consequence") from error

    return raised(act)


def test_what_allocators_raise_is_known_for_what_it_is():
    torch = pytest.importorskip("torch")
    pyarrow = pytest.importorskip("pyarrow")
    numpy = pytest.importorskip("numpy")
    for act in (
        lambda: bytearray(MORE_THAN_THERE_IS),
        lambda: torch.empty(MORE_THAN_THERE_IS // 8),
        lambda: pyarrow.allocate_buffer(MORE_THAN_THERE_IS),
        lambda: numpy.empty(MORE_THAN_THERE_IS // 16),
    ):
        assert ran_out_of_memory(raised(act))
        assert ran_out_of_memory(chained(raised(act)))
    assert ran_out_of_memory(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
    assert ran_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))


@pytest.mark.parametrize(
    "error",
    [
        *(RuntimeError("shape '[2]' is invalid"), OSError(errno.ENOSPC, "No space left")),
        *(ValueError("the row says: out of memory"), KeyboardInterrupt(), None),
    ],
)
def test_other_faults_are_not_taken_for_it(error):
    assert not ran_out_of_memory(error)


def test_what_this_process_uses_is_known():
    used = memory_now().used
    assert used is not None
    assert 10**7 < used < 10**11


def test_a_kill_that_the_kernel_counted_since_is_told(tmp_path: Path, monkeypatch):
    events = tmp_path / "memory.events"
    vmstat = tmp_path / "vmstat"
    monkeypatch.setattr(memory, "_VMSTAT", vmstat)
    events.write_text("low 0\noom 3\noom_kill 2\n")
    vmstat.write_text("nr_free_pages 7\noom_kill 5\n")
    before = memory.Memory(100, 1000, str(tmp_path), cgroup_kills=2, machine_kills=5)
    assert killed_for_memory(asdict(before)) is None
    assert killed_for_memory(None) is None
    nearly = replace(before, used=950)
    assert "950 of the 1,000 bytes" in str(killed_for_memory(asdict(nearly)))

    vmstat.write_text("nr_free_pages 7\noom_kill 6\n")
    assert "of this machine" in str(killed_for_memory(asdict(before)))
    events.write_text("low 0\noom 4\noom_kill 3\n")
    assert f"of its memory cgroup {tmp_path}" in str(killed_for_memory(asdict(before)))
    (tmp_path / "memory.events").unlink()  # the container is gone, and its cgroup with it
    assert "of this machine" in str(killed_for_memory(asdict(before)))


@pytest.mark.parametrize(
    "stage, settings, words",
    [
        ("ppo", {"micro_batch_size": None, "mini_batch_size": 16}, "which is 16 now"),
        ("sft", {"micro_batch_size": 4, "batch_size": 16}, "sft.micro_batch_size, which is 4 now"),
        ("sft", {"micro_batch_size": 1, "batch_size": 16}, "one row at a time already"),
        ("reward_model", None, "lower reward_model.micro_batch_size: fewer rows"),
        ("data", {}, "fewer or shorter rows"),
        (None, None, "fewer or shorter rows"),
    ],
)
def test_the_advice_fits_the_stage_and_its_settings(stage, settings, words):
    assert words in how_to_need_less(stage, settings)
