"""Which cause a set of signs points to: the left-hand side of the table of section 3.11.

The rows are in the order of how much they say: the first that fits names the cause. What several
causes have in common is told apart by other signs: rollouts and updates that disagree with steady
distributions mean dropout, or stale weights where they agreed at the start.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rlhf_core.sentinel.causes import CAUSES, Cause
from rlhf_core.sentinel.evidence import Evidence

EXACT = 1e-3
"""Relative error of sums in float32 that still count as equal."""
STRONG_KL_COEF = 0.3
"""Share of the scores' deviation from which on kl_coef outweighs them: one nat then costs about as
much as most responses differ by."""
LARGE_MOVE = 0.02
"""approx_kl within an update above which the steps are too large (section 3.8)."""
WILD_MOVE = 0.1
SMALL_MOVE = 1e-5
"""approx_kl within an update below which nothing is learnt."""

RANDOM = 1e-3
"""Difference of log-probabilities of two passes beyond what a processor makes of the same sum."""

SAMPLER = ("surprisal_z", "end_z", "late_first_end", "sampler_gap", "negative_kl")
DRIFT = (
    "kl_to_reference",
    "approx_kl",
    "clip_fraction",
    "entropy_share",
    "distinct_share",
    "held_out_loss",
    "held_out_fall",
)
LENGTH = ("ended_fall", "at_limit_rise", "length_growth")


@dataclass(frozen=True)
class Signature:
    """One row: the signs, and the cause that they point to."""

    signs: str
    fits: Callable[[Evidence], bool]
    cause: str


def _rule(name: str) -> Callable[[Evidence], bool]:
    return lambda e: e.is_raised("broken_rules") and e[name] > EXACT


def _rewards_fit(name: str) -> Callable[[Evidence], bool]:
    return lambda e: e.is_raised("broken_rules") and e["rewards_error"] > EXACT > e[name]


def _sampler(*conditions: Callable[[Evidence], bool]) -> Callable[[Evidence], bool]:
    return lambda e: e.is_raised(*SAMPLER) and all(holds(e) for holds in conditions)


def _moved(e: Evidence) -> float:
    """The largest approx_kl of the last updates."""
    return max(e.history.get("approx_kl", [0.0])[-3:], default=0.0)


def _drift_is_fast(e: Evidence) -> bool:
    return e.is_raised("approx_kl", "clip_fraction") or _moved(e) > LARGE_MOVE


SIGNATURES = (
    # Exact rules: nothing else can break them.
    Signature("a seed was used before", _rule("seed_error"), "one_seed"),
    Signature("the mask goes past the end", _rule("mask_error"), "mask_wrong"),
    Signature("rewards = score + kl_coef KL", _rewards_fit("if_kl_sign"), "kl_sign"),
    Signature("rewards = score", _rewards_fit("if_kl_missing"), "kl_missing"),
    Signature(
        "rewards = tokens * score - kl_coef KL",
        _rewards_fit("if_every_token"),
        "score_on_every_token",
    ),
    Signature(
        "rewards are off by a number per token", _rewards_fit("if_shifted"), "rewards_shifted"
    ),
    Signature("rewards are another sum", _rule("rewards_error"), "rewards_wrong"),
    Signature(
        "unfinished responses keep their score", _rule("missing_eos_error"), "missing_eos_rule_off"
    ),
    Signature("the reference says something new", _rule("reference_error"), "reference_moves"),
    Signature(
        "the KL is exactly 0 though the policy moved",
        lambda e: e.is_raised("broken_rules") and e["kl_idle"] > 0,
        "reference_moves",
    ),
    # Rollout against update.
    Signature(
        "log-probabilities do not agree, not even those of two passes of the same weights",
        lambda e: e.is_raised("first_ratio_error", *SAMPLER) and e["pass_difference"] > RANDOM,
        "dropout",
    ),
    Signature(
        "ratios are not 1 before any step, but nearly",
        lambda e: e.is_raised("first_ratio_error") and e["first_ratio_error"] < 0.02,
        "low_precision",
    ),
    Signature(
        "ratios are not 1 before any step",
        lambda e: e.is_raised("first_ratio_error"),
        "paths_differ",
    ),
    # The sampler: which tokens it never draws says what it does.
    Signature("every token is the likeliest", _sampler(lambda e: e["greedy"] > 0), "greedy"),
    Signature("no response ends early", _sampler(lambda e: e["min_tokens"] > 0), "end_suppressed"),
    Signature("no token is below a rank", _sampler(lambda e: e["top_k"] > 0), "top_k"),
    Signature("no token is from the tail", _sampler(lambda e: e["top_p"] > 0), "top_p"),
    Signature(
        "the sampler agreed at the start and does no longer",
        _sampler(lambda e: e["sampler_gap"] > 10 * max(e.start.get("sampler_gap", 1.0), 1e-6)),
        "stale_sampler",
    ),
    Signature(
        "the sampler's log-probabilities are near, and its draws are as they should be",
        _sampler(
            lambda e: 0.05 > e["sampler_gap"] > 1e-4,
            lambda e: not e.is_raised("surprisal_z", "end_z", "negative_kl"),
        ),
        "low_precision",
    ),
    Signature(
        "the draws fit another temperature",
        _sampler(lambda e: abs(e["temperature_ratio"] - 1) > 0.03),
        "sampler_temperature",
    ),
    Signature("the draws are of another distribution", _sampler(), "sampler_differs"),
    # Scores.
    Signature("all scores are equal", lambda e: e.is_raised("constant_scores"), "read_out"),
    Signature("scores are huge", lambda e: e.is_raised("largest_score"), "scores_extreme"),
    Signature(
        "each update moves the policy so far that all else follows from it",
        lambda e: e.is_raised(*DRIFT) and _moved(e) > WILD_MOVE,
        "learning_rate_high",
    ),
    # Length.
    Signature("responses are empty", lambda e: e.is_raised("empty_share"), "empty_liked"),
    Signature(
        "length goes where whitened rewards push it",
        lambda e: e.is_raised("length_loss", *LENGTH) and e["whiten_rewards"] > 0,
        "rewards_whitened",
    ),
    Signature(
        "fewer responses end, and those that do not end score no worse",
        lambda e: (
            e.is_raised("ended_fall", "at_limit_rise")
            and e["missing_eos_score"] >= e["score_quartile"]
        ),
        "missing_eos_weak",
    ),
    Signature("responses grow", lambda e: e.is_raised(*LENGTH), "length_biased"),
    # Drift.
    Signature(
        "the policy drifts and nothing holds it",
        lambda e: e.is_raised(*DRIFT) and e["kl_coef"] == 0 and not e.is_raised("approx_kl"),
        "no_kl_penalty",
    ),
    Signature(
        "each update moves the policy far",
        lambda e: e.is_raised(*DRIFT) and _drift_is_fast(e),
        "learning_rate_high",
    ),
    Signature(
        "the held-out score falls while the score rises",
        lambda e: e.is_raised("held_out_loss", "held_out_fall"),
        "over_optimised",
    ),
    Signature("responses repeat one another", lambda e: e.is_raised("distinct_share"), "collapse"),
    Signature(
        "the policy drifts in small steps",
        lambda e: e.is_raised("kl_to_reference", "entropy_share"),
        "kl_coef_low",
    ),
    Signature("responses shrink", lambda e: e.is_raised("length_loss"), "length_falls"),
    # Standing still.
    Signature("no weight moves", lambda e: e.is_raised("standstill"), "optimizer_idle"),
    Signature(
        "the score stands still, and every advantage is 0",
        lambda e: e.is_raised("stall") and e["advantage_deviation"] < 1e-8,
        "advantages_zero",
    ),
    Signature(
        "the score stands still, and a nat of KL costs much",
        lambda e: (
            e.is_raised("stall")
            and e["kl_coef"] > STRONG_KL_COEF * e.start.get("score_deviation", float("nan"))
        ),
        "kl_coef_high",
    ),
    Signature(
        "the score stands still, and updates hardly move the policy",
        lambda e: (
            e.is_raised("stall")
            and max(e.history.get("approx_kl", [1.0]), default=1.0) < SMALL_MOVE
        ),
        "learning_rate_low",
    ),
    Signature("the score stands still", lambda e: e.is_raised("stall"), "not_learning"),
    # Values.
    Signature("values know the returns", lambda e: e.is_raised("leaked_values"), "value_leak"),
    Signature(
        "values are worse than a mean", lambda e: e.is_raised("explained_variance"), "value_useless"
    ),
    Signature(
        "values are held back", lambda e: e.is_raised("value_clip_fraction"), "value_clip_tight"
    ),
)


def likely_cause(evidence: Evidence) -> Cause:
    """The cause of the first signature that fits."""
    for signature in SIGNATURES:
        if signature.fits(evidence):
            return CAUSES[signature.cause]
    return CAUSES["unknown"]
