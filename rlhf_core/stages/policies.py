"""The policies that a PPO run leaves: its last weights, and their average over the steps."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_core.errors import TrainingStopped
from rlhf_core.models import merged
from rlhf_core.pretrained import save_policy
from rlhf_core.sentinel.diagnosis import LAST_GOOD
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.training.averaging import WeightAverage

AVERAGE, LAST = "average_policy", "last_policy"
"""Folders of the weights that are not the artifact's policy."""


@contextmanager
def last_good_kept(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out_dir: Path
) -> Iterator[None]:
    """Where training is stopped, the policy of its last good state is in a folder of its own."""
    try:
        yield
    except TrainingStopped:
        save_policy(merged(policy), tokenizer, out_dir / LAST_GOOD)
        raise


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
