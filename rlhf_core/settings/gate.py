"""Settings of the gate that a reward model passes before PPO."""

from typing import Literal

from pydantic import Field

from rlhf_core.settings.base import Settings

Check = Literal["refuse", "warn", "off"]


class GateSettings(Settings):
    """What is asked of the reward model before anything is optimized against it.

    A check that fails refuses PPO, or is only said, or is not made. Accuracies are judged by their
    95 % intervals over prompts: a check fails where the evidence is clear, and is said where it is
    not. Scores that are not finite are always refused.
    """

    swapped_labels: Check = "refuse"
    """Right in clearly less than one half of the held-out pairs."""

    accuracy: Check = "refuse"
    """Right in clearly less than `min_accuracy` of the held-out pairs."""

    min_accuracy: float = Field(default=0.55, ge=0, le=1)
    """Share of held-out pairs that a reward model has to get right; a coin has one half."""

    no_better_than_length: Check = "refuse"
    """Clearly not more often right than always taking the longer response."""

    constant_scores: Check = "refuse"
    """The same score for every response of a first rollout."""

    extreme_scores: Check = "refuse"
    """A score beyond `max_score` in a first rollout, which no other term could match."""

    max_score: float = Field(default=1e4, gt=0)
    """Largest size of a score."""
