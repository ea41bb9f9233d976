"""The algorithms of the `ppo` stage, and which settings each of them reads."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic.fields import FieldInfo

Algorithm = Literal["ppo", "rloo", "grpo"]

GROUPED: tuple[Algorithm, ...] = ("rloo", "grpo")
"""Algorithms whose baseline is the other responses to the same prompt."""

OF_THE_VALUE_MODEL = (
    "value_network",
    "value_coef",
    "value_learning_rate",
    "value_clip_range",
    "value_init",
    "value_warmup_updates",
    "gae_lambda",
)
OF_TOKEN_REWARDS = ("gamma", "score_at", "whiten_rewards")

WITHOUT_EFFECT: Mapping[Algorithm, tuple[str, ...]] = {
    "ppo": ("surrogate", "divide_by_group_deviation"),
    "rloo": (*OF_THE_VALUE_MODEL, *OF_TOKEN_REWARDS, "divide_by_group_deviation"),
    "grpo": (*OF_THE_VALUE_MODEL, *OF_TOKEN_REWARDS, "surrogate"),
}
"""Settings that an algorithm never reads: one that is not its default is a misunderstanding."""

WITH_A_SHARED_TRUNK = ("value_learning_rate", "value_init", "value_warmup_updates")
"""Settings of a value model that is a network of its own."""


def without_effect(
    algorithm: Algorithm, given: Mapping[str, Any], fields: Mapping[str, FieldInfo]
) -> list[str]:
    """The settings that are not at their default though the algorithm never reads them."""
    return [name for name in WITHOUT_EFFECT[algorithm] if given[name] != _default(fields[name])]


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True, validated_data={})
