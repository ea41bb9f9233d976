"""The policies that a PPO run leaves: its last weights, and their average over the steps."""

from typing import NamedTuple

from transformers import PreTrainedModel

from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.training.averaging import WeightAverage

AVERAGE, LAST = "average_policy", "last_policy"
"""Folders of the weights that are not the artifact's policy."""


class LeftPolicies(NamedTuple):
    """The policy of the artifact, and the other one by the folder that it is written into."""

    published: PreTrainedModel
    beside: dict[str, PreTrainedModel]

    def by_weights(self) -> dict[str, PreTrainedModel]:
        """`last` and `average` where there are both, else nothing."""
        if not self.beside:
            return {}
        ((folder, other),) = self.beside.items()
        own = "last" if folder == AVERAGE else "average"
        return {own: self.published, folder.partition("_")[0]: other}


def left_policies(
    policy: PreTrainedModel,
    average: WeightAverage[PreTrainedModel] | None,
    settings: PpoSettings,
) -> LeftPolicies:
    """What is published of a trained policy, and what lies beside it, as the settings say."""
    if average is None:
        return LeftPolicies(policy, {})
    if settings.published_weights == "average":
        return LeftPolicies(average.averaged(), {LAST: policy})
    return LeftPolicies(policy, {AVERAGE: average.averaged()})
