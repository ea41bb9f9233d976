"""Settings of the sentinel: when a number is worth a warning, and when it ends training."""

from typing import Any, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from rlhf_core.settings.base import Settings


class Limits(Settings):
    """Where one alarm warns and where it stops training; null for never."""

    warn: float | None = None
    """Past this number it is said once, and counted."""

    stop: float | None = None
    """Past this number training stops."""

    in_a_row: int = Field(default=1, ge=1)
    """How many steps, or in PPO updates, in a row have to be past `stop` for that."""


class SentinelSettings(Settings):
    """The guard ladder that every loop has, and the alarms on its gradients.

    An alarm that is null is off; of one that is given in part the rest stays as it is by default.
    """

    bad_in_a_row: int = Field(default=3, ge=1)
    """Steps in a row with a number that is not finite after which the last good state returns."""

    bad_in_window: int = Field(default=5, ge=1)
    """The same for bad steps that need not follow one another."""

    window: int = Field(default=100, ge=2)
    """Steps over which those are counted, and over which medians and deviations are taken."""

    good_state_every: int = Field(default=50, ge=1)
    """Steps, or in PPO updates, from one copy of the good state to the next. It is what training
    returns to once, with half the learning rate, and what is kept of a run that is stopped; it
    takes the memory of weights and optimizer once more."""

    skip_spikes: bool = False
    """Skip a step whose loss is past `loss_spike.warn`, instead of only counting it."""

    loss_spike: Limits | None = Limits(warn=20.0)
    """Deviations of the loss above its mean over the window; in PPO none is taken."""

    grad_norm: Limits | None = Limits(warn=10.0)
    """Gradient norm before clipping, as a multiple of its median over the window."""

    @field_validator("*", mode="before")
    @classmethod
    def _what_is_not_given_stays(cls, value: Any, info: ValidationInfo) -> Any:
        default = cls.model_fields[info.field_name or ""].default
        if isinstance(value, dict) and isinstance(default, Limits):
            return {**default.model_dump(), **value}
        return value

    @model_validator(mode="after")
    def _the_window_holds_the_bad_steps(self) -> Self:
        if self.bad_in_window > self.window:
            raise ValueError(
                f"bad_in_window={self.bad_in_window} is more than window={self.window} steps can "
                "hold: make it smaller."
            )
        return self


class SupervisedSentinelSettings(SentinelSettings):
    """The sentinel of SFT and of the reward model."""

    flat_loss: Limits | None = Limits(warn=0.02)
    """Least share of the first steps' loss by which the last steps' has to be lower at the end."""


class RewardModelSentinelSettings(SupervisedSentinelSettings):
    """The sentinel of the reward model."""

    chance: Limits | None = Limits(warn=0.53)
    """Accuracy on the last training steps below which nothing was learnt of the preferences."""


class PpoSentinelSettings(SentinelSettings):
    """The sentinel of PPO; the limits are those of the specification's section 6.2.

    Limits on the KL are for responses of 50 tokens: they are scaled with the mean length of the
    reference's own responses, as that of the first rollout, but never to less than half.
    """

    good_state_every: int = Field(default=5, ge=1)
    """Updates from one copy of the good state to the next. It is what training returns to once,
    with half the learning rate, and what is kept of a run that is stopped; it takes the memory of
    weights and optimizers once more."""

    first_ratio_error: Limits | None = Limits(warn=1e-2, stop=5e-2)
    """Mean |new / old - 1| in the first mini-batch of an update, before any step."""

    kl_to_reference: Limits | None = Limits(warn=35.0, stop=50.0)
    """Mean sequence KL in nats."""

    negative_kl: Limits | None = Limits(warn=0.5, stop=1.0, in_a_row=3)
    """Nats by which the mean sequence KL is below 0, where that is no noise (4 standard errors)."""

    approx_kl: Limits | None = Limits(warn=0.02, stop=0.1, in_a_row=3)
    """How far the policy moves within an update, in nats per token."""

    clip_fraction: Limits | None = Limits(warn=0.2, stop=0.4, in_a_row=3)
    """Share of tokens whose gradient was clipped away."""

    entropy_share: Limits | None = Limits(warn=0.3, stop=0.1, in_a_row=3)
    """Entropy per token, as a share of the first rollout's; past means below."""

    distinct_share: Limits | None = Limits(warn=0.5, stop=0.1, in_a_row=2)
    """Share of responses that no other repeats, as a share of the first rollout's; past means
    below."""

    ended_fall: Limits | None = Limits(warn=0.1, stop=0.5, in_a_row=3)
    """How far the share of responses that end is below that of the first rollout."""

    length_growth: Limits | None = Limits(warn=1.6)
    """Mean response length as a multiple of the first rollout's."""

    at_limit_rise: Limits | None = Limits(warn=0.25, stop=0.5, in_a_row=3)
    """How far the share of responses that are as long as they may be is above the first
    rollout's."""

    length_loss: Limits | None = Limits(warn=0.5)
    """Mean response length as a share of the first rollout's; past means below."""

    empty_share: Limits | None = Limits(warn=0.5, stop=0.9, in_a_row=2)
    """Share of responses that consist of the end alone."""

    constant_scores: Limits | None = Limits(warn=1e-6, stop=1e-6, in_a_row=3)
    """Deviation of the scores within a rollout; past means below."""

    largest_score: Limits | None = Limits(warn=1e3, stop=1e6)
    """Largest size of a score."""

    held_out_fall: Limits | None = Limits(warn=10.0)
    """Updates over which the held-out score fell while the score rose."""

    held_out_loss: Limits | None = Limits(stop=0.0, in_a_row=3)
    """Standard deviations by which the held-out score's mean over 5 updates is below that of the
    first rollout, while the score is above its own; only where there is a held-out reward model."""

    explained_variance: Limits | None = Limits(warn=0.0)
    """Explained variance of the values after 50 updates; past means below."""

    leaked_values: Limits | None = Limits(warn=0.98)
    """Explained variance within the first 3 updates, before anything can have been learnt."""

    value_clip_fraction: Limits | None = Limits(warn=0.5)
    """Share of values that the value clip holds back, after the first 5 updates."""

    surprisal_z: Limits | None = Limits(warn=5.0, stop=10.0)
    """Standard errors of the sampled tokens' surprisal from the entropy, either way."""

    end_z: Limits | None = Limits(warn=5.0, stop=10.0)
    """Standard errors of the number of ends sampled from that which the distributions promise."""

    late_first_end: Limits | None = Limits(warn=14.0, stop=20.0)
    """Ends that the distributions promised before the first one came; a right sampler passes x once
    in e^x rollouts."""

    sampler_gap: Limits | None = Limits(warn=1e-3, stop=0.1)
    """Mean difference of the sampler's log-probabilities from those that are trained on, in
    float32; times 50 where the weights are of lower precision."""

    broken_rules: Limits | None = Limits(warn=1e-3, stop=1e-3)
    """Error of what has to hold of every rollout exactly: the rewards' sum, masks, seeds, scores of
    unfinished responses, an unchanged reference."""

    standstill: Limits | None = Limits(warn=1.0, stop=3.0)
    """Updates in a row in which no weight of the policy moved."""

    stall: Limits | None = Limits(warn=2.0)
    """Standard errors by which the score has to rise from 5 updates to the next 5 in the second
    half of the training, where the KL is still below 1 nat; past means below."""
