"""Policies that are kept along PPO's training, so that its course can be judged afterwards."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf_core.settings.course import CourseSettings
from rlhf_core.training.trained import copied_tensors, take_tensors

COURSE = "course"
"""Folder of the ppo artifact that holds the kept policies, by the update after which they stood."""


class Measured(NamedTuple):
    """What a policy's responses are like, for the choice between policies."""

    update: int
    kl: float
    """Mean sequence KL to the reference, in nats."""

    score: float
    """By the scores that decide the choice."""


def kept_updates(updates: int, kept: int) -> list[int]:
    """After which updates, counted from 1, a policy is kept: evenly spread, the last left out.

    The last one is the result itself. Fewer are kept where there are not so many updates.
    """
    wanted = {round(updates * place / (kept + 1)) for place in range(1, kept + 1)}
    return sorted(wanted & set(range(1, updates)))


def policy_folder(artifact: Path, update: int) -> Path:
    """Where the policy lies that stood after `update`."""
    return artifact / COURSE / f"update-{update:06d}"


def kept_policies(artifact: Path) -> dict[int, Path]:
    """Folder of each policy that lies in the artifact's course, by update, in order."""
    folders = (folder for folder in (artifact / COURSE).glob("update-*") if folder.is_dir())
    return dict(sorted((int(folder.name.removeprefix("update-")), folder) for folder in folders))


@dataclass
class PpoCourse:
    """The trained weights after some updates; the groups of tensors are saved and brought back."""

    updates: Sequence[int]
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tensors |= {_group(update): {} for update in self.updates}

    def update_done(self, policy: nn.Module, update: int) -> None:
        """Keep the weights of `policy` where this update is one of those."""
        if update in self.updates:
            self.tensors[_group(update)] |= copied_tensors(policy)

    @property
    def weights(self) -> Mapping[int, Mapping[str, Tensor]]:
        """Update to the trained weights after it; those that training came to."""
        found = ((update, self.tensors[_group(update)]) for update in self.updates)
        return {update: dict(sorted(weights.items())) for update, weights in found if weights}

    def policies(self, like: PreTrainedModel) -> Iterator[tuple[int, PreTrainedModel]]:
        """Each kept policy in turn, as a copy of `like` with the weights of then."""
        for update, weights in self.weights.items():
            policy = deepcopy(like)
            take_tensors(policy, weights)
            yield update, policy


def chosen(measured: Sequence[Measured], settings: CourseSettings) -> Measured:
    """The policy of the highest score within `max_kl`; the nearest one where none is within."""
    within = [one for one in measured if one.kl <= settings.max_kl]
    if not within:
        return min(measured, key=lambda one: one.kl)
    return max(within, key=lambda one: one.score)


def _group(update: int) -> str:
    return f"course-{update}"
