"""What becomes of the policies that PPO kept: they are written down, and one may be chosen."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_core.models import merged
from rlhf_core.pretrained import save_policy
from rlhf_core.scorers import HELD_OUT_SCORE
from rlhf_core.settings.course import CourseSettings
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.training.ppo_course import Measured, PpoCourse, chosen, policy_folder
from rlhf_core.training.ppo_metrics import rollout_metrics
from rlhf_core.training.rollouts import PpoModels, Rollout

SELECTION = "selection.json"

Metrics = Callable[[PreTrainedModel], dict[str, float]]
"""The rollout metrics of a policy, always on the same prompts and draws."""


class Settled(NamedTuple):
    """The policy that becomes the artifact's, and how it compares; nothing where none was asked."""

    policy: PreTrainedModel
    update: int
    measured: tuple[Measured, ...]


def settle(
    course: PpoCourse,
    settings: CourseSettings,
    last: PreTrainedModel,
    *,
    updates: int,
    metrics: Metrics,
) -> Settled:
    """The policy that `settings.choose` asks for, of those that were kept and the last."""
    if settings.choose == "last":
        return Settled(last, updates, ())
    by = HELD_OUT_SCORE if settings.choose == "held_out_score" else "score"
    measured = []
    for update, policy in _all(course, last, updates):
        found = metrics(policy)
        measured.append(Measured(update, found["kl_to_reference"], found[by]))
    best = chosen(measured, settings)
    policy = next(policy for update, policy in _all(course, last, updates) if update == best.update)
    return Settled(policy, best.update, tuple(measured))


def settled_course(
    course: PpoCourse | None,
    settings: PpoSettings,
    models: PpoModels,
    *,
    roll: Callable[..., Rollout],
    prompts: Sequence[Sequence[int]],
    accelerator: Accelerator,
) -> Settled | None:
    """What `settle` comes to on rollouts of training prompts; None where no policy was kept.

    `roll` is `collect_rollout` with all but the models and the prompts.
    """
    if course is None or settings.course is None:
        return None
    asked = prompts[: settings.course.prompts]

    def metrics(policy: PreTrainedModel) -> dict[str, float]:
        rollout = roll(replace(models, policy=policy), prompts=asked)
        return rollout_metrics(rollout, kl_coef=settings.kl_coef, accelerator=accelerator)

    return settle(course, settings.course, models.policy, updates=settings.updates, metrics=metrics)


def write_course(
    course: PpoCourse | None,
    settled: Settled | None,
    last: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    out_dir: Path,
    *,
    updates: int,
) -> None:
    """Every kept policy lies in `out_dir`, the last too where another became the artifact's.

    Nothing is written where none was kept.
    """
    if course is None or settled is None:
        return
    kept = course.policies(last)
    if settled.update != updates:
        kept = chain(kept, [(updates, last)])
    for update, policy in kept:
        save_policy(merged(policy), tokenizer, policy_folder(out_dir, update))
    if settled.measured:
        record = {
            "chosen_update": settled.update,
            "measured": [one._asdict() for one in settled.measured],
        }
        text = json.dumps(record, indent=2) + "\n"
        (out_dir / SELECTION).write_text(text, encoding="utf-8", newline="\n")


def _all(
    course: PpoCourse, last: PreTrainedModel, updates: int
) -> Iterator[tuple[int, PreTrainedModel]]:
    yield from course.policies(last)
    yield updates, last
