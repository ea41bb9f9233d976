"""What PPO is paid by: the reward model, functions of the recipe, or a weighted sum."""

from typing import Literal

from pydantic import Field, field_validator

from rlhf_core.named_functions import is_function_name
from rlhf_core.settings.base import Settings

EnsembleScore = Literal["mean", "minimum", "mean_minus_k_std"]

REWARD_MODEL = "reward_model"


class RewardSettings(Settings):
    """One of the things that a response is paid for."""

    source: str = REWARD_MODEL
    """`reward_model`, or `module:function`, which is called as `function(prompts, responses)` and
    returns one number each; where it has a parameter `references`, it is given the response that
    the data has for each prompt, or None."""

    weight: float = 1.0
    """What its score is multiplied by before all are added up."""

    @field_validator("source")
    @classmethod
    def _source_is_known(cls, source: str) -> str:
        if source != REWARD_MODEL and not is_function_name(source):
            raise ValueError(
                f"source={source!r} is neither 'reward_model' nor of the form 'module:function', "
                "for example 'rlhf_core.verifiable:same_final_number'."
            )
        return source

    @property
    def is_function(self) -> bool:
        """Whether it is a function of the recipe."""
        return self.source != REWARD_MODEL


REWARDS_DEFAULT = (RewardSettings(),)


class ScoringSettings(Settings):
    """All that decides what a response is paid, so that others can read it as PPO did."""

    rewards: tuple[RewardSettings, ...] = Field(default=REWARDS_DEFAULT, min_length=1, strict=False)
    ensemble_score: EnsembleScore = "mean"
    ensemble_k: float = Field(default=1.0, ge=0)

    @property
    def functions(self) -> tuple[RewardSettings, ...]:
        """Those of the rewards that are functions."""
        return tuple(reward for reward in self.rewards if reward.is_function)

    @property
    def reward_model_weight(self) -> float | None:
        """What the reward model's score weighs; None where nothing is paid for it."""
        return next((reward.weight for reward in self.rewards if not reward.is_function), None)
