"""The algorithms of the `ppo` stage: which settings each of them reads, and those of DPO alone."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field
from pydantic.fields import FieldInfo

from rlhf_core.settings.base import Settings

Algorithm = Literal["ppo", "rloo", "grpo", "dpo"]

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
OF_ROLLOUTS = (
    "responses_per_prompt",
    "clip_range",
    "dual_clip",
    "loss_reduction",
    "kl_estimator",
    "max_approx_kl",
    "kl_target",
    "adam_epsilon_style",
    "ptx",
    "ema_decay",
    "published_weights",
    "course",
)

WITHOUT_EFFECT: Mapping[Algorithm, tuple[str, ...]] = {
    "ppo": ("surrogate", "divide_by_group_deviation", "dpo"),
    "rloo": (*OF_THE_VALUE_MODEL, *OF_TOKEN_REWARDS, "divide_by_group_deviation", "dpo"),
    "grpo": (*OF_THE_VALUE_MODEL, *OF_TOKEN_REWARDS, "kl_estimator", "surrogate", "dpo"),
    "dpo": (
        *OF_THE_VALUE_MODEL,
        *OF_TOKEN_REWARDS,
        *OF_ROLLOUTS,
        "surrogate",
        "divide_by_group_deviation",
    ),
}
"""Settings that an algorithm never reads: one that is not its default is a misunderstanding.

Sizes (`updates`, `ppo_epochs`, `mini_batch_size`) are not among them, so that one recipe serves
all algorithms; DPO has its own.
"""

WITH_A_SHARED_TRUNK = ("value_learning_rate", "value_init", "value_warmup_updates")
"""Settings of a value model that is a network of its own."""


class DpoSettings(Settings):
    """Direct preference optimization (arXiv:2305.18290): `ppo.algorithm: dpo`.

    Its beta is `ppo.kl_coef`, the weight of the same KL; the learning rate, its schedule (over
    optimizer steps), the optimizer and `micro_batch_size` are those of PPO.
    """

    epochs: int = Field(default=1, ge=1)
    """Passes over the preferences."""

    batch_size: int = Field(default=32, ge=1)
    """Prompts per optimizer step; all ranked responses of a prompt stay in one step."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Assumed share of comparisons whose labels are swapped ("conservative DPO")."""

    measurements: int = Field(default=10, ge=1)
    """How often score and KL are measured on a rollout of `rollout_batch_size` responses."""


def check_groups(given: Mapping[str, Any]) -> None:
    """Raise ValueError where the responses of a rollout are no whole groups of one prompt each."""
    size = given["responses_per_prompt"]
    if given["rollout_batch_size"] % size:
        raise ValueError(
            f"rollout_batch_size={given['rollout_batch_size']} is not a multiple of "
            f"responses_per_prompt={size}: choose one that is."
        )
    if given["algorithm"] in GROUPED and size < 2:
        raise ValueError(
            f"ppo.algorithm={given['algorithm']!r} compares responses to the same prompt, of which "
            "there is one: set ppo.responses_per_prompt to 4, say."
        )


def check_effects(given: Mapping[str, Any], fields: Mapping[str, FieldInfo]) -> None:
    """Raise ValueError where a setting is not at its default and yet read by nobody."""
    algorithm: Algorithm = given["algorithm"]
    useless = [name for name in WITHOUT_EFFECT[algorithm] if given[name] != _default(fields[name])]
    reason = f"ppo.algorithm={algorithm!r} never reads them"
    if algorithm == "ppo" and given["value_network"] == "shared_trunk":
        shared = [name for name in WITH_A_SHARED_TRUNK if given[name] != _default(fields[name])]
        useless, reason = useless + shared, "the value head shares the policy's trunk"
    elif algorithm == "ppo" and given["value_coef"] != _default(fields["value_coef"]):
        useless, reason = [*useless, "value_coef"], "a separate value model is no part of a sum"
    if algorithm in GROUPED and given["whiten_advantages"] == "mini_batch":
        useless = [*useless, "whiten_advantages"]
    if useless:
        settings = ", ".join(f"ppo.{name}" for name in useless)
        raise ValueError(f"{settings} would have no effect: {reason}. Leave it out.")


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True, validated_data={})
