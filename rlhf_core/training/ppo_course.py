"""Policies that are kept along PPO's training, so that its course can be judged afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from rlhf_core.training.trained import copied_tensors


def kept_updates(updates: int, kept: int) -> list[int]:
    """After which updates, counted from 1, a policy is kept: evenly spread, the last left out.

    The last one is the result itself. Fewer are kept where there are not so many updates.
    """
    wanted = {round(updates * place / (kept + 1)) for place in range(1, kept + 1)}
    return sorted(wanted & set(range(1, updates)))


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
    def policies(self) -> Mapping[int, Mapping[str, Tensor]]:
        """Update to the trained weights after it; those that training came to."""
        found = {update: self.tensors[_group(update)] for update in self.updates}
        return {
            update: dict(sorted(weights.items())) for update, weights in found.items() if weights
        }


def _group(update: int) -> str:
    return f"course-{update}"
