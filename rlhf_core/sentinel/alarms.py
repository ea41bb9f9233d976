"""The alarms of PPO: what each measures and how it is told (specification, section 6.2)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from rlhf_core.sentinel.evidence import Evidence

LIMIT_TOKENS = 50
"""Response length that the limits on the KL are made for."""
LEAST_KL_SCALE = 0.5
SMOOTHED = 5
"""Updates over which noisy numbers are averaged."""
LOW_PRECISION = 50.0
"""How much larger differences of log-probabilities are in bfloat16 than in float32 (section
4.4)."""


def _as_it_is(_: Evidence) -> float:
    return 1.0


@dataclass(frozen=True)
class Alarm:
    """One number that is watched; `name` is its field in the settings."""

    name: str
    measure: Callable[[Evidence], float]
    says: str
    """With `{value}` and `{limit}` in it."""
    below: bool = False
    """Whether past a limit means below it."""
    scale: Callable[[Evidence], float] = _as_it_is
    """What the limits are multiplied by."""

    def is_past(self, value: float, limit: float | None) -> bool:
        """Whether the value is on the wrong side of the limit."""
        if limit is None:
            return False
        return value < limit if self.below else value > limit


def kl_scale(e: Evidence) -> float:
    """Limits on the KL for responses as long as the reference's own."""
    tokens = e.start.get("response_tokens", LIMIT_TOKENS)
    return max(tokens / LIMIT_TOKENS, LEAST_KL_SCALE)


def precision_scale(e: Evidence) -> float:
    """1 for weights in float32."""
    return LOW_PRECISION if e["low_precision_weights"] else 1.0


def _negative_kl(e: Evidence) -> float:
    kl, error = e["kl_to_reference"], e["kl_standard_error"]
    return -kl if kl < -4 * error else 0.0


def _after(update: int, name: str) -> Callable[[Evidence], float]:
    return lambda e: e[name] if e.step > update else math.nan


def _held_out_fall(e: Evidence) -> float:
    """Updates since the smoothed held-out score was highest, if the score has risen since."""
    held_out, score = e.history.get("held_out_score", ()), e.history.get("score", ())
    if len(held_out) < 2 * SMOOTHED or len(score) != len(held_out):
        return math.nan
    smooth = [sum(held_out[i : i + SMOOTHED]) for i in range(len(held_out) - SMOOTHED + 1)]
    paid = [sum(score[i : i + SMOOTHED]) for i in range(len(score) - SMOOTHED + 1)]
    best = max(range(len(smooth)), key=smooth.__getitem__)
    return float(len(smooth) - 1 - best) if paid[-1] > paid[best] else 0.0


def _held_out_loss(e: Evidence) -> float:
    """Deviations by which the held-out score is below its start, while the score is above its."""
    lost = e.start.get("held_out_score", math.nan) - e.mean_of_last("held_out_score", SMOOTHED)
    gained = e.mean_of_last("score", SMOOTHED) - e.start.get("score", math.nan)
    deviation = e.start.get("held_out_score_deviation", e.start.get("score_deviation", math.nan))
    return lost / deviation if gained > 0 and deviation > 0 else math.nan


def _stall(e: Evidence) -> float:
    """Standard errors by which the score rises from some updates to the next, next to the start.

    In the second half of the training, and where the KL says that the policy has not got far.
    """
    if 2 * e.step < e["updates"] or e["updates"] < 2 * SMOOTHED:
        return math.nan
    if not e.mean_of_last("kl_to_reference", SMOOTHED) < 2 * LEAST_KL_SCALE:
        return math.nan
    before = e.history.get("score", ())[-2 * SMOOTHED : -SMOOTHED]
    if len(before) < SMOOTHED:
        return math.nan
    risen = e.mean_of_last("score", SMOOTHED) - sum(before) / SMOOTHED
    error = e.start.get("score_deviation", math.nan) * math.sqrt(
        2 / (SMOOTHED * e["rollout_batch_size"])
    )
    return risen / error if error > 0 else math.nan


BEFORE_STEPS = (
    Alarm(
        "broken_rules",
        lambda e: e["broken_rules"],
        "a rule that every rollout has to keep is broken by {value:.2g}",
        scale=precision_scale,
    ),
    Alarm(
        "constant_scores",
        lambda e: e["raw_score_deviation"],
        "the scores of a whole rollout are the same (deviation {value:.1e})",
        below=True,
    ),
    Alarm("largest_score", lambda e: e["largest_score"], "a score has a size of {value:.3g}"),
    Alarm(
        "surprisal_z",
        lambda e: abs(e["surprisal_z"]),
        "sampled tokens are {value:.1f} standard errors away from the surprisal that the policy's "
        "entropy promises",
    ),
    Alarm(
        "end_z",
        lambda e: abs(e["end_z"]),
        "the number of sampled ends is {value:.1f} standard errors away from what the policy's "
        "distributions promise",
    ),
    Alarm(
        "late_first_end",
        lambda e: e["late_first_end"],
        "{value:.0f} ends were promised by the policy's distributions before the first one came",
    ),
    Alarm(
        "sampler_gap",
        lambda e: e["sampler_gap"],
        "the sampler's log-probabilities are {value:.1e} away from those that are trained on",
        scale=precision_scale,
    ),
    Alarm(
        "negative_kl",
        _negative_kl,
        "the mean KL to the reference is {value:.2f} nats below 0, where no KL can be",
    ),
    Alarm(
        "kl_to_reference",
        lambda e: e["kl_to_reference"],
        "the policy is {value:.1f} nats a response away from the reference (limit {limit:.3g})",
        scale=kl_scale,
    ),
    Alarm(
        "entropy_share",
        lambda e: e.share("entropy"),
        "the entropy has fallen to {value:.0%} of that at the start",
        below=True,
    ),
    Alarm(
        "distinct_share",
        lambda e: e.share("distinct_share"),
        "only {value:.0%} as many responses are distinct as at the start",
        below=True,
    ),
    Alarm(
        "empty_share",
        lambda e: e["empty_share"],
        "{value:.0%} of the responses are empty: the end token alone",
    ),
    Alarm(
        "ended_fall",
        lambda e: -e.change("ended_share"),
        "the share of responses that end has fallen by {value:.2f}",
    ),
    Alarm(
        "at_limit_rise",
        lambda e: e.change("at_limit_share"),
        "the share of responses that are as long as they may be has risen by {value:.2f}",
    ),
    Alarm(
        "length_growth",
        lambda e: e.share("response_tokens"),
        "responses are {value:.2f} times as long as at the start",
    ),
    Alarm(
        "length_loss",
        lambda e: e.share("response_tokens"),
        "responses are {value:.2f} times as long as at the start",
        below=True,
    ),
    Alarm(
        "held_out_loss",
        _held_out_loss,
        "the held-out score is {value:.2f} deviations below that of the SFT policy while the score "
        "is above its own",
    ),
    Alarm(
        "held_out_fall",
        _held_out_fall,
        "the held-out score has been falling for {value:.0f} updates while the score rises",
    ),
    Alarm(
        "leaked_values",
        lambda e: e["explained_variance"] if e.step <= 3 else math.nan,
        "the values explain {value:.1%} of the returns before anything was learnt",
    ),
    Alarm(
        "explained_variance",
        _after(50, "explained_variance"),
        "the explained variance of the values is {value:.2f} after {step} updates",
        below=True,
    ),
    Alarm(
        "stall",
        _stall,
        "after {step} updates the score rises by {value:.1f} standard errors only, and the KL is "
        "next to 0",
        below=True,
    ),
)
"""Looked at before the first step on a rollout."""

AFTER_STEPS = (
    Alarm(
        "first_ratio_error",
        lambda e: e["first_ratio_error"],
        "the ratios new / old are {value:.1e} away from 1 before any step",
    ),
    Alarm(
        "standstill",
        lambda e: e["still_updates"],
        "no weight of the policy has moved for {value:.0f} updates",
    ),
    Alarm(
        "approx_kl",
        lambda e: e["approx_kl"],
        "within an update the policy moves {value:.3f} nats a token",
    ),
    Alarm(
        "clip_fraction",
        lambda e: e["clip_fraction"],
        "the gradient of {value:.0%} of the tokens is clipped away",
    ),
    Alarm(
        "value_clip_fraction",
        _after(5, "value_clip_fraction"),
        "{value:.0%} of the values are held back by their clip",
    ),
)
"""Looked at after the steps on a rollout."""
