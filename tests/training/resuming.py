"""Short runs of the training loops that are ended, continued and compared in all they give.

`resumes_exactly` is what every setting that carries something from step to step is tested with.
"""

import hashlib
import random
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from peft import TaskType
from torch import nn

from rlhf_core.checkpoints import Checkpoint, Checkpoints
from rlhf_core.errors import Stopped
from rlhf_core.history import recorded
from rlhf_core.models import ScalarModel, weights_digest, with_lora
from rlhf_core.report import Report
from rlhf_core.reward_models import RewardModel, new_heads
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.settings.reward_model import RewardModelSettings
from rlhf_core.settings.sft import SftSettings
from rlhf_core.stopping import StopRequest
from rlhf_core.training.averaging import WeightAverage
from rlhf_core.training.demonstrations import Demonstrations
from rlhf_core.training.dpo import Preferences, train_dpo
from rlhf_core.training.likelihoods import with_reference
from rlhf_core.training.ppo import train_ppo
from rlhf_core.training.ppo_course import PpoCourse, kept_updates
from rlhf_core.training.ranked import Rankings, drawn_rows, mismatches
from rlhf_core.training.reward_model import train_reward_model
from rlhf_core.training.rollouts import PpoModels, collect_rollout
from rlhf_core.training.sft import train_sft
from rlhf_core.training.sft_course import EpochSampler
from rlhf_core.training.state import Saving, saving_into
from tests.tiny_models import (
    PAD,
    SPECIAL,
    arranged,
    tiny_policy,
    tiny_ppo_models,
    tiny_scalar_model,
)

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
        sampler=EpochSampler(OTHERS.prompts, SPECIAL, 6, 0.5, usual_repetition=0.0),
    )
    return outcome, [policy]


def run_reward_model(report: Report, saving: Saving | None, **changes) -> Outcome:
    """6 steps on mismatched responses, then 6 on rankings: twice two passes of three."""
    settings = RewardModelSettings(
        **{
            "batch_size": 8,
            "epochs": 2,
            "learning_rate": 0.003,
            "token_loss_weight": 1.0,
            "mismatch_rows": 20,
        }
        | changes
    )
    model = tiny_scalar_model()
    if settings.lora is not None:
        model.model = with_lora(model.model, settings.lora, task=TaskType.TOKEN_CLS)
    heads, rankings = None, RANKINGS
    if settings.ensemble is not None:
        heads = new_heads(model, settings.ensemble.members, seed=1)
        seen = drawn_rows(len(RANKINGS), members=settings.ensemble.members, share=0.5, seed=1)
        rankings = replace(RANKINGS, seen=seen)
    reward_model = RewardModel([model], settings.readout, heads)
    steps = train_reward_model(
        reward_model,
        rankings,
        settings,
        report,
        special=SPECIAL,
        mismatched=mismatches(
            COPIES.prompts,
            COPIES.responses,
            rows=settings.mismatch_rows,
            group_size=settings.mismatch_group_size,
            seed=1,
        ),
        seed=1,
        accelerator=Accelerator(),
        saving=saving,
    )
    return steps, [reward_model]


def run_ppo(report: Report, saving: Saving | None, **changes) -> Outcome:
    """5 updates of 16 responses to 24 prompts: the second and the fourth cross into a new pass."""
    settings = PpoSettings(
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
        }
        | changes
    )
    models = arranged(tiny_ppo_models(), settings)
    if settings.lora is not None:
        policy = with_lora(models.policy, settings.lora, task=TaskType.CAUSAL_LM)
        models = replace(models, policy=policy)
    if settings.lora is not None and settings.value_network == "separate":
        value_model = with_lora(models.value_model.model, settings.lora, task=TaskType.TOKEN_CLS)
        models = replace(models, value_model=ScalarModel(value_model))
    prompts = [[3 + i % 9, 4 + i % 8] for i in range(24)]
    if settings.algorithm == "dpo":
        return run_dpo(models, prompts, settings, report, saving)
    course = None
    if settings.course is not None:
        course = PpoCourse(kept_updates(settings.updates, settings.course.kept))
    average = None
    if settings.ema_decay is not None:
        average = WeightAverage(models.policy, settings.ema_decay)
    metrics = train_ppo(
        models,
        prompts,
        settings,
        report,
        special=SPECIAL,
        max_response_tokens=8,
        missing_eos_score=-1.0,
        seed=1,
        accelerator=Accelerator(),
        saving=saving,
        average=average,
        course=course,
        text=[[3 + i % 9, 4 + i % 8, 3 + i % 5, 1] for i in range(30)],
    )
    networks = [models.policy, models.value_model]
    return metrics, [network for network in networks if network is not None]


def run_dpo(
    models: PpoModels,
    prompts: list[list[int]],
    settings: PpoSettings,
    report: Report,
    saving: Saving | None,
) -> Outcome:
    """A pass over 21 rankings of two, in steps of `dpo.batch_size`."""
    accelerator = Accelerator()
    likelihoods = with_reference(RANKINGS, models.reference, settings, SPECIAL)
    metrics = train_dpo(
        models,
        Preferences(likelihoods, likelihoods),
        settings,
        report,
        prompts=prompts,
        roll=partial(
            collect_rollout,
            models,
            settings=settings,
            special=SPECIAL,
            max_response_tokens=8,
            kl_coef=settings.kl_coef,
            missing_eos_score=-1.0,
            accelerator=accelerator,
        ),
        seed=1,
        accelerator=accelerator,
        saving=saving,
    )
    return metrics, [models.policy]


LOOPS: Mapping[str, tuple[Callable[..., Outcome], int]] = {
    "sft": (run_sft, 18),
    "reward_model": (run_reward_model, 12),
    "ppo": (run_ppo, 5),
}


Series = list[tuple[int, str, str]]
"""Everything reported, in order: step, name, and value as a hexadecimal float."""


@dataclass(frozen=True)
class Ended:
    """All that can be told of a run after its end."""

    given: str
    weights: list[str]
    history: bytes
    saved: dict[str, str]
    steps: list[int]


class CheckpointsOfANewProcess(Checkpoints):
    """Checkpoints that are found where torch's generator stands elsewhere than when they were
    saved."""

    def newest(self) -> Checkpoint | None:
        found = super().newest()
        if found is not None:
            torch.manual_seed(99)
        return found


def run(
    loop: Callable[..., Outcome],
    folder: Path,
    *,
    stop_after: int | None = None,
    on_step: Callable[[int], None] = lambda step: None,
    identity: Mapping[str, str] | None = None,
    heard: list[str] | None = None,
    series: Series | None = None,
    **changes,
) -> Ended:
    """One process's share of the training in `folder`; `stop_after` a step it is asked to end.

    What is noticed goes into `heard`, what is reported into `series`.
    """
    stop, steps = StopRequest(), list[int]()
    lines = [] if heard is None else heard
    checkpoints = CheckpointsOfANewProcess(
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
        if series is not None:
            kept = metrics.keys() - {"tokens_per_second"}
            series.extend((step, name, float(metrics[name]).hex()) for name in sorted(kept))
        on_step(step)
        if step == stop_after and not stop.signum:
            stop.request(signal.SIGTERM)

    torch.manual_seed(0)
    before = unsaved_generators()
    with recorded(out, report) as recording:
        given, networks = loop(recording, saving_into(checkpoints, recording), **changes)
    assert unsaved_generators() == before, "the loop draws from one, and no checkpoint holds it"
    return Ended(
        str(given),
        [weights_digest(network) for network in networks],
        (out / "history.jsonl").read_bytes(),
        last_saved(folder),
        steps,
    )


def unsaved_generators() -> tuple[object, ...]:
    """The states of Python's and numpy's global generators."""
    return random.getstate(), str(np.random.get_state())  # noqa: NPY002 - it is what is watched


def newest(folder: Path) -> Path:
    return max((folder / "checkpoints").glob("step-*"))


def last_saved(folder: Path) -> dict[str, str]:
    """Hashes of the last checkpoint's files."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in newest(folder).iterdir()
    }


def assert_same(ended: Ended, whole: Ended) -> None:
    assert ended.given == whole.given
    assert ended.weights == whole.weights
    assert ended.history == whole.history
    assert ended.saved == whole.saved


def resumes_exactly(name: str, folder: Path, **changes: object) -> Ended:
    """Assert that the loop with these settings comes to the same end however it is interrupted.

    Compared are what it gives, its weights, its record, its last checkpoint with the optimizers'
    moments, and every number it reported: of a run that was never ended, of one that was ended and
    continued after every step, and of one that was once. Gives the first.
    """
    loop, _ = LOOPS[name]
    reported: dict[str, Series] = {"whole": [], "every": [], "once": []}
    whole = run(loop, folder / "whole", series=reported["whole"], **changes)
    taken = sorted(set(whole.steps))
    for way, ends in (("every", taken), ("once", taken[1 : len(taken) // 2 + 1][-1:])):
        for step in ends:
            with pytest.raises(Stopped):
                run(loop, folder / way, stop_after=step, series=reported[way], **changes)
        ended = run(loop, folder / way, series=reported[way], **changes)
        assert_same(ended, whole)
        assert reported[way] == reported["whole"], f"ended {way}"
    return whole
