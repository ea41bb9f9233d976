"""Settings of the policies that PPO keeps along its way."""

from typing import Literal

from pydantic import Field

from rlhf_core.settings.base import Settings


class CourseSettings(Settings):
    """Keep policies along training, for the evaluation to judge and perhaps to choose one of."""

    kept: int = Field(default=8, ge=1)
    """Policies that are kept beside the last, evenly spread over the updates. Each costs a copy of
    the trained weights, in memory and in every checkpoint."""

    choose: Literal["last", "held_out_score", "score"] = "last"
    """Which policy becomes the artifact's: the last, or the one of the highest score among those
    within `max_kl`. `held_out_score` is that of a reward model that training does not please
    (`reward_model.held_out`), which is the safe choice (detail P29); `score` is training's own."""

    max_kl: float = Field(default=20.0, gt=0)
    """Sequence KL to the reference, in nats, within which a policy may be chosen."""

    prompts: int = Field(default=128, ge=2)
    """Training prompts on whose responses score and KL are compared for the choice, at most."""
