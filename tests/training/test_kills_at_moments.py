"""Real processes that kill themselves in the middle of a named moment, and what continues them."""

import functools
import multiprocessing
import os
import pkgutil
import signal
from pathlib import Path

import pytest
import torch

from tests.training.resuming import LOOPS, Ended, assert_same, newest, run

pytestmark = pytest.mark.slow

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.training.resuming"])

LONGEST_SECONDS = 240

MICRO = {"micro_batch_size": 3}
"""Three micro-batches in each step."""

PPO, STATE = "rlhf_core.training.ppo_optimization", "rlhf_core.training.state"

MOMENTS = {
    "sft": {
        "in gradient accumulation": ("rlhf_core.training.sft_loss:Targets.part", 8),
        "on an epoch's border": ("rlhf_core.training.sft:shuffled_batches", 2),
        "in an evaluation": ("rlhf_core.training.sft:validation_loss", 2),
    },
    "reward_model": {
        "in gradient accumulation": ("rlhf_core.training.reward_model:kwise_loss", 9),
        "on an epoch's border": ("rlhf_core.training.reward_model:shuffled_batches", 2),
        "between mismatched rows and rankings": (
            "rlhf_core.training.reward_model:shuffled_batches",
            3,
        ),
    },
    "ppo": {
        "during a rollout": ("rlhf_core.generation:_draw", 20),
        "on an epoch's border": ("rlhf_core.training.ppo:collect_rollout", 2),
        "between PPO's epochs": (f"{PPO}:Optimization._moved_too_far", 5),
        "in gradient accumulation": (f"{PPO}:ppo_policy_loss", 8),
        "between the two networks' steps": (f"{PPO}:Optimization._value_loss", 14),
    },
}
"""By loop, the function in the nth call of which the process dies."""

RECOVERY = (
    "rlhf_core.checkpoints:changed_bytes",
    f"{STATE}:take_tensors",
    f"{STATE}:take_moments",
    "rlhf_core.history:Recording.go_on_from",
    f"{STATE}:TrainingState._take_generators",
    "rlhf_core.checkpoints:remove_folder",
)
"""What a process does between its start and the first state that it saves."""


def die_at(function: str, call: int) -> None:
    """From now on this process kills itself as it enters that call of the function."""
    module, _, name = function.partition(":")
    owner, _, attribute = name.rpartition(".")
    holder = pkgutil.resolve_name(f"{module}:{owner}" if owner else module)
    right = getattr(holder, attribute)
    calls = iter(range(1, call))

    @functools.wraps(right)
    def dying(*args, **named):
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return right(*args, **named)

    setattr(holder, attribute, dying)


def run_and_die(name: str, folder: Path, function: str, call: int) -> None:
    torch.set_num_threads(1)
    die_at(function, call)
    run(LOOPS[name][0], folder, **MICRO)


def dies(name: str, folder: Path, function: str, call: int) -> None:
    """Train in a process of its own, which ends by SIGKILL and by nothing else."""
    process = CONTEXT.Process(target=run_and_die, args=(name, folder, function, call))
    process.start()
    process.join(LONGEST_SECONDS)
    assert process.exitcode == -signal.SIGKILL


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The run of a loop that nothing happened to, made once."""

    @functools.cache
    def of(name: str) -> Ended:
        return run(LOOPS[name][0], tmp_path_factory.mktemp(name), **MICRO)

    return of


@pytest.mark.parametrize(
    "name, moment", [(name, moment) for name in MOMENTS for moment in MOMENTS[name]]
)
def test_a_kill_at_a_moment_changes_nothing(name: str, moment: str, tmp_path: Path, undisturbed):
    dies(name, tmp_path, *MOMENTS[name][moment])
    assert_same(run(LOOPS[name][0], tmp_path, **MICRO), undisturbed(name))


@pytest.mark.parametrize("name", LOOPS)
def test_kills_during_recovery_one_after_the_other_change_nothing(
    name: str, tmp_path: Path, undisturbed
):
    dies(name, tmp_path, f"{STATE}:TrainingState.step_done", 4)
    assert newest(tmp_path).name.startswith("step-0000000003")
    for function in RECOVERY:
        dies(name, tmp_path, function, 1)
    assert_same(run(LOOPS[name][0], tmp_path, **MICRO), undisturbed(name))
