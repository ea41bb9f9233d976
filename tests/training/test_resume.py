"""Training that was ended after any step and continued is, bit for bit, training that was not."""

import hashlib
import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from peft import TaskType
from torch import nn

from rlhf_core.checkpoints import Checkpoints
from rlhf_core.errors import ArtifactError, Stopped
from rlhf_core.history import recorded
from rlhf_core.models import weights_digest, with_lora
from rlhf_core.report import Report, ignore
from rlhf_core.settings.base import LoraSettings
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.settings.reward_model import RewardModelSettings
from rlhf_core.settings.sft import SftSettings
from rlhf_core.stopping import StopRequest
from rlhf_core.training.ppo import train_ppo
from rlhf_core.training.ranked import Rankings, mismatches
from rlhf_core.training.reward_model import train_reward_model
from rlhf_core.training.sft import Demonstrations, train_sft
from rlhf_core.training.state import Saving, saving_into
from tests.tiny_models import PAD, SPECIAL, tiny_policy, tiny_ppo_models, tiny_scalar_model

COPIES = Demonstrations(
    [[3 + i % 9, 3 + i % 7, 3 + i % 5] for i in range(45)],
    [[3 + i % 9] * (1 + i % 4) + [1] for i in range(45)],
)
OTHERS = Demonstrations(COPIES.prompts[:8], [[9, 10, 11, 1]] * 8)
RANKINGS = Rankings(
    [[3 + i % 9] for i in range(21)],
    [[[4 + i % 8, 1], [5, 4 + i % 7, 1]] for i in range(21)],
    [[1, 2] if i % 2 else [2, 1] for i in range(21)],
)

Outcome = tuple[object, list[nn.Module]]
"""What a loop gave, and the networks that it trained."""


def run_sft(report: Report, saving: Saving | None, **changes) -> Outcome:
    """6 steps an epoch; the validation rows are not those learnt, so that the last is not best."""
    settings = SftSettings(
        **{"epochs": 3, "batch_size": 8, "learning_rate": 0.01, "evaluations_per_epoch": 2}
        | changes
    )
    policy = tiny_policy(tie_word_embeddings=True)
    if settings.lora is not None:
        policy = with_lora(policy, settings.lora, task=TaskType.CAUSAL_LM)
    outcome = train_sft(
        policy,
        COPIES,
        OTHERS,
        settings,
        report,
        pad_token_id=PAD,
        seed=1,
        accelerator=Accelerator(),
        saving=saving,
    )
    return outcome, [policy]


def run_reward_model(report: Report, saving: Saving | None, **changes) -> Outcome:
    """6 steps on mismatched responses, then 6 on rankings: twice two passes of three."""
    model = tiny_scalar_model()
    steps = train_reward_model(
        model,
        RANKINGS,
        RewardModelSettings(
            **{"batch_size": 8, "epochs": 2, "learning_rate": 0.003, "token_loss_weight": 1.0}
            | changes
        ),
        report,
        special=SPECIAL,
        mismatched=mismatches(COPIES.prompts, COPIES.responses, rows=20, group_size=2, seed=1),
        seed=1,
        accelerator=Accelerator(),
        saving=saving,
    )
    return steps, [model]


def run_ppo(report: Report, saving: Saving | None, **changes) -> Outcome:
    """5 updates of 16 responses to 24 prompts: the second and the fourth cross into a new pass."""
    models = tiny_ppo_models()
    metrics = train_ppo(
        models,
        [[3 + i % 9, 4 + i % 8] for i in range(24)],
        PpoSettings(
            **{
                "updates": 5,
                "rollout_batch_size": 16,
                "mini_batch_size": 8,
                "ppo_epochs": 2,
                "learning_rate": 0.003,
                "warmup_updates": 2,
                "value_warmup_updates": 1,
                "kl_target": 0.5,
                "kl_horizon": 100,
                "max_kl_to_reference": None,
            }
            | changes
        ),
        report,
        special=SPECIAL,
        max_response_tokens=8,
        missing_eos_score=-1.0,
        seed=1,
        accelerator=Accelerator(),
        saving=saving,
    )
    return metrics, [models.policy, models.value_model]


LOOPS: Mapping[str, tuple[Callable[..., Outcome], int]] = {
    "sft": (run_sft, 18),
    "reward_model": (run_reward_model, 12),
    "ppo": (run_ppo, 5),
}


@dataclass(frozen=True)
class Ended:
    """All that can be told of a run after its end."""

    given: str
    weights: list[str]
    history: bytes
    saved: dict[str, str]
    steps: list[int]


def run(
    loop: Callable[..., Outcome],
    folder: Path,
    *,
    stop_after: int | None = None,
    on_step: Callable[[int], None] = lambda step: None,
    identity: Mapping[str, str] | None = None,
    heard: list[str] | None = None,
    **changes,
) -> Ended:
    """One process's share of the training in `folder`; `stop_after` a step it is asked to end."""
    stop, steps = StopRequest(), list[int]()
    lines = [] if heard is None else heard
    checkpoints = Checkpoints(
        folder / "checkpoints",
        identity or {"settings": "a"},
        every_steps=changes.pop("every_steps", 1),
        notice=lines.append,
        stop=stop,
    )
    out = folder / "payload"
    out.mkdir(parents=True, exist_ok=True)

    def report(step: int, metrics: Mapping[str, float]) -> None:
        steps.append(step)
        on_step(step)
        if step == stop_after and not stop.signum:
            stop.request(signal.SIGTERM)

    torch.manual_seed(0)
    with recorded(out, report) as recording:
        given, networks = loop(recording, saving_into(checkpoints, recording), **changes)
    return Ended(
        str(given),
        [weights_digest(network) for network in networks],
        (out / "history.jsonl").read_bytes(),
        last_saved(folder),
        steps,
    )


def newest(folder: Path) -> Path:
    return max((folder / "checkpoints").glob("step-*"))


def last_saved(folder: Path) -> dict[str, str]:
    """Hashes of the last checkpoint's files."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in newest(folder).iterdir()
    }


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Callable[[str], Ended]:
    """The run of a loop that was never ended, made once."""
    made: dict[str, Ended] = {}

    def of(name: str) -> Ended:
        if name not in made:
            made[name] = run(LOOPS[name][0], tmp_path_factory.mktemp(name))
        return made[name]

    return of


def assert_same(ended: Ended, whole: Ended) -> None:
    assert ended.given == whole.given
    assert ended.weights == whole.weights
    assert ended.history == whole.history
    assert ended.saved == whole.saved


@pytest.mark.parametrize("name", LOOPS)
def test_saving_changes_nothing(name: str, tmp_path: Path, unbroken):
    loop, _ = LOOPS[name]
    torch.manual_seed(0)
    with recorded(tmp_path, ignore) as recording:
        _, networks = loop(recording, None)
    assert [weights_digest(network) for network in networks] == unbroken(name).weights
    assert (tmp_path / "history.jsonl").read_bytes() == unbroken(name).history


# Mid-epoch, on an epoch's border, at an evaluation, between the phases, before the last and after
# it: SFT has epochs of 6 steps; the reward model passes of 3 and phases of 6; PPO epochs of 1.5.
@pytest.mark.parametrize(
    "name, step",
    [
        *(("sft", step) for step in (1, 3, 4, 6, 7, 12, 17, 18)),
        *(("reward_model", step) for step in (1, 3, 4, 6, 7, 9, 11, 12)),
        *(("ppo", step) for step in (1, 2, 3, 4, 5)),
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
def test_a_run_ended_after_every_single_step_is_the_one_that_was_not(
    name: str, tmp_path: Path, unbroken
):
    loop, steps = LOOPS[name]
    for step in range(1, steps + 1):
        with pytest.raises(Stopped):
            run(loop, tmp_path, stop_after=step)
    assert_same(run(loop, tmp_path), unbroken(name))


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


def test_patience_that_has_run_out_has_run_out_after_a_return_too(tmp_path: Path):
    changes = {"epochs": 20, "patience": 2}
    whole = run(run_sft, tmp_path / "whole", **changes)
    last = whole.steps[-1]
    assert last < 120
    for step in (last - 1, last):
        with pytest.raises(Stopped):
            run(run_sft, tmp_path / str(step), stop_after=step, **changes)
        assert_same(run(run_sft, tmp_path / str(step), **changes), whole)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_adapters_and_their_dropout_continue_exactly(tmp_path: Path, dropout: float):
    lora = LoraSettings(rank=2, dropout=dropout)
    whole = run(run_sft, tmp_path / "whole", lora=lora)
    with pytest.raises(Stopped):
        run(run_sft, tmp_path / "broken", stop_after=8, lora=lora)
    torch.rand(7)  # whatever else draws from the global generator in between
    assert_same(run(run_sft, tmp_path / "broken", lora=lora), whole)
    weights = next((tmp_path / "broken" / "checkpoints").glob("step-*")) / "policy.safetensors"
    assert weights.stat().st_size < 20_000  # the adapter's alone: the base is an input


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
        patch.setattr("tests.training.test_resume.tiny_ppo_models", lambda: other)
        with pytest.raises(ArtifactError, match=r"state\.json.*expected reference"):
            run(run_ppo, tmp_path)
    wider = tiny_ppo_models(layers=3)
    monkeypatch.setattr("tests.training.test_resume.tiny_ppo_models", lambda: wider)
    with pytest.raises(ArtifactError, match=r"state\.json.*expected reference"):
        run(run_ppo, tmp_path)


def test_another_layout_of_the_weights_is_refused_and_the_weight_is_named(tmp_path, monkeypatch):
    with pytest.raises(Stopped):
        run(run_sft, tmp_path, stop_after=2)
    deeper = tiny_policy(layers=3)
    monkeypatch.setattr("tests.training.test_resume.tiny_policy", lambda **changes: deeper)
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
