"""Training that was ended after any step and continued is, bit for bit, training that was not."""

import os
import resource
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rlhf_core.errors import ArtifactError, Stopped, StorageError, UserError
from rlhf_core.history import recorded
from rlhf_core.models import weights_digest
from rlhf_core.report import ignore
from rlhf_core.stopping import StopRequest
from tests.tiny_models import tiny_policy, tiny_ppo_models
from tests.training.resuming import (
    LOOPS,
    Ended,
    assert_same,
    newest,
    run,
    run_ppo,
    run_reward_model,
    run_sft,
)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Callable[[str], Ended]:
    """The run of a loop that was never ended, made once."""
    made: dict[str, Ended] = {}

    def of(name: str) -> Ended:
        if name not in made:
            made[name] = run(LOOPS[name][0], tmp_path_factory.mktemp(name))
        return made[name]

    return of


@pytest.mark.parametrize("name", LOOPS)
def test_saving_changes_nothing(name: str, tmp_path: Path, unbroken):
    loop, _ = LOOPS[name]
    torch.manual_seed(0)
    with recorded(tmp_path, ignore) as recording:
        _, networks = loop(recording, None)
    assert [weights_digest(network) for network in networks] == unbroken(name).weights
    assert (tmp_path / "history.jsonl").read_bytes() == unbroken(name).history


# Mid-epoch, on an epoch's border and between the phases, and after the last: SFT has epochs of 6
# steps; the reward model passes of 3 and phases of 6; PPO epochs of 1.5.
@pytest.mark.parametrize(
    "name, step",
    [
        *(("sft", step) for step in (4, 6, 18)),
        *(("reward_model", step) for step in (4, 6, 12)),
        *(("ppo", step) for step in (1, 3, 5)),
    ],
)
def test_a_run_ended_after_a_step_and_continued_is_the_one_that_was_not(
    name: str, step: int, tmp_path: Path, unbroken
):
    loop, _ = LOOPS[name]
    with pytest.raises(Stopped) as stopped:
        run(loop, tmp_path, stop_after=step)
    assert stopped.value.exit_code == 143
    continued = run(loop, tmp_path)
    assert_same(continued, unbroken(name))
    assert sorted(set(continued.steps)) == list(range(step + 1, LOOPS[name][1] + 1))


@pytest.mark.parametrize("name", LOOPS)
def test_steps_after_the_last_save_are_taken_again_and_recorded_once(
    name: str, tmp_path: Path, unbroken
):
    class Lost(Exception):
        """The process is gone."""

    def lose(step: int) -> None:
        if step == 4:
            raise Lost

    loop, steps = LOOPS[name]
    with pytest.raises(Lost):
        run(loop, tmp_path, on_step=lose, every_steps=2)
    continued = run(loop, tmp_path, every_steps=2)
    assert_same(continued, unbroken(name))
    assert sorted(set(continued.steps)) == list(range(3, steps + 1))


def test_a_disk_that_is_full_in_the_middle_of_a_save_costs_nothing_that_was_saved(
    tmp_path: Path, unbroken
):
    """The system itself refuses the weights: files may not grow past a kilobyte."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step: int) -> None:
        if step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))

    try:
        with pytest.raises(StorageError, match=r"step 3 cannot be saved in .*File too large.*kept"):
            run(run_sft, tmp_path, on_step=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert {path.name[:15] for path in (tmp_path / "checkpoints").iterdir()} == {
        "step-0000000001",
        "step-0000000002",
    }
    assert_same(run(run_sft, tmp_path), unbroken("sft"))


def test_patience_that_has_run_out_has_run_out_after_a_return_too(tmp_path: Path):
    changes = {"epochs": 20, "patience": 2}
    whole = run(run_sft, tmp_path / "whole", **changes)
    last = whole.steps[-1]
    assert last < 120
    for step in (last - 1, last):
        with pytest.raises(Stopped):
            run(run_sft, tmp_path / str(step), stop_after=step, **changes)
        assert_same(run(run_sft, tmp_path / str(step), **changes), whole)


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("damage", ["bit", "cut", "gone"])
def test_damage_to_any_file_of_the_newest_costs_one_step_and_no_bit(
    name: str, damage: str, tmp_path: Path, unbroken
):
    loop, _ = LOOPS[name]
    with pytest.raises(Stopped):
        run(loop, tmp_path, stop_after=2)
    names = sorted(path.name for path in newest(tmp_path).iterdir())
    assert "generators.safetensors" in names
    for file in names:
        path = newest(tmp_path) / file
        content = path.read_bytes()
        path.chmod(0o644)
        middle = len(content) // 2
        changed = content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]
        path.write_bytes(changed if damage == "bit" else content[:-1])
        if damage == "gone":
            path.unlink()
        heard: list[str] = []
        with pytest.raises(Stopped):
            run(loop, tmp_path, stop_after=2, heard=heard)
        assert f"{file}: expected" in heard[0]
        assert "after step 1" in heard[1]
    assert_same(run(loop, tmp_path), unbroken(name))


def test_another_identity_is_refused_with_its_keys(tmp_path: Path):
    with pytest.raises(Stopped):
        run(run_sft, tmp_path, stop_after=2)
    with pytest.raises(ArtifactError, match="learning_rate: expected 1, found None"):
        run(run_sft, tmp_path, identity={"settings": "a", "learning_rate": "1"})


def test_another_reference_or_network_is_refused_and_named(tmp_path: Path, monkeypatch):
    with pytest.raises(Stopped):
        run(run_ppo, tmp_path, stop_after=2)
    other = tiny_ppo_models(reference=tiny_policy(seed=5))
    with monkeypatch.context() as patch:
        patch.setattr("tests.training.resuming.tiny_ppo_models", lambda: other)
        with pytest.raises(ArtifactError, match=r"state\.json.*expected reference"):
            run(run_ppo, tmp_path)
    wider = tiny_ppo_models(layers=3)
    monkeypatch.setattr("tests.training.resuming.tiny_ppo_models", lambda: wider)
    with pytest.raises(ArtifactError, match=r"state\.json.*expected reference"):
        run(run_ppo, tmp_path)


def test_another_layout_of_the_weights_is_refused_and_the_weight_is_named(tmp_path, monkeypatch):
    with pytest.raises(Stopped):
        run(run_sft, tmp_path, stop_after=2)
    deeper = tiny_policy(layers=3)
    monkeypatch.setattr("tests.training.resuming.tiny_policy", lambda **changes: deeper)
    with pytest.raises(ArtifactError, match=r"policy\.safetensors.*expected .* of shape"):
        run(run_sft, tmp_path)


def test_another_number_of_threads_is_a_warning(tmp_path: Path):
    with pytest.raises(Stopped):
        run(run_sft, tmp_path, stop_after=2)
    heard: list[str] = []
    torch.set_num_threads(2)
    try:
        run(run_sft, tmp_path, heard=heard)
    finally:
        torch.set_num_threads(1)
    assert "threads 1, this is 2: the rest need not be the same" in heard[0]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_training_after_its_step_with_the_state_saved(tmp_path: Path, signum):
    before = signal.getsignal(signum)

    def send(step: int) -> None:
        if step == 3:
            os.kill(os.getpid(), signum)

    with pytest.raises(Stopped) as stopped:
        run(run_reward_model, tmp_path, on_step=send, every_steps=100)
    assert stopped.value.exit_code == 128 + signum
    assert signal.getsignal(signum) is before
    assert newest(tmp_path).name.startswith("step-0000000003")


def test_outside_a_main_thread_no_handler_is_touched_and_a_request_works(tmp_path: Path):
    raised: list[BaseException] = []

    def train() -> None:
        try:
            run(run_reward_model, tmp_path, stop_after=3)
        except Stopped as error:
            raised.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert [type(error) for error in raised] == [Stopped]


def test_the_second_request_ends_the_process_at_once(monkeypatch):
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    stop = StopRequest()
    stop.request(signal.SIGTERM)
    assert left == []
    stop.request(signal.SIGINT)
    assert left == [130]


@pytest.mark.parametrize(
    "loop, step, fewer",
    [
        (run_sft, 7, {"epochs": 1}),  # 6 steps
        (run_reward_model, 7, {"epochs": 1}),  # 3 on the mismatched rows, 3 on the rankings
        (run_ppo, 3, {"updates": 2}),
    ],
)
def test_settings_that_end_before_the_checkpoint_are_refused(loop, step, fewer, tmp_path):
    with pytest.raises(Stopped):
        run(loop, tmp_path, stop_after=step)

    ends = fewer.get("updates", 6)
    with pytest.raises(UserError, match=f"after step {step}, but .* ends after step {ends}:"):
        run(loop, tmp_path, **fewer)
