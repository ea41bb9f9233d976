"""What has to hold before PPO may start, measured on the real models and prompts each time.

Each check stops the run with the number it found: a rising reward curve is no evidence that any of
this is right (specification, sections 3.12 and 6.1).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlhf_core.batches import Sequences, SpecialTokens
from rlhf_core.maths.logprobs import taken_logprobs
from rlhf_core.maths.rewards import kl_estimates
from rlhf_core.models import ScalarModel, dropout_rates
from rlhf_core.sentinel.alarms import LOW_PRECISION
from rlhf_core.sentinel.diagnosis import refuse
from rlhf_core.sentinel.evidence import Evidence
from rlhf_core.sentinel.signatures import likely_cause
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.training.ppo_metrics import surprisal_z
from rlhf_core.training.rollout_rules import explain_rewards, rule_errors
from rlhf_core.training.rollout_signals import end_z, late_first_end
from rlhf_core.training.rollouts import (
    PpoModels,
    Rollout,
    policy_distribution,
    values_before,
)
from rlhf_core.training.sampler_examination import examine_sampler

KL_TOLERANCE = 1e-3
"""Sequence KL in nats of a policy that has not moved, in float32 (section 3.10)."""
RATIO_TOLERANCE = 1e-4
"""Mean |ratio - 1| of two passes of the same policy over the same batch rows, in float32."""
PADDING_TOLERANCE = 1e-4
"""Largest change of a log-probability, value or score through padding; 1e-5 is usual (R7)."""
MOST_SURPRISAL_Z = 6.0
"""Standard errors; a right sampler passes 6 once in 500 million starts (section 4.3, test 9)."""
FEWEST_ENDED = 0.5
"""Share of the reference's responses that end by themselves; below it PPO would mostly learn from
the missing-EOS score (section 6.1 wishes 0.8)."""
WISHED_ENDED = 0.8
"""Share of ended responses from which on nothing is said (section 6.1)."""
LEAST_SPREAD = 0.3
"""Deviation of the first scores from which on nothing is said (section 6.1)."""
MOST_PROMISED_ENDS = 20.0
"""Ends promised before the first one came; a right sampler passes it once in 500 million starts."""
SAMPLER_GAP = 1e-3
"""Mean difference of a log-probability in float32 between sampler and trainer; 1e-6 is usual."""
RULE_TOLERANCE = 1e-3
"""Relative error of a sum of rewards in float32."""


@dataclass(frozen=True)
class Preflight:
    """What was measured before the first update."""

    kl_to_reference: float
    ratio_error: float
    surprisal_z: float
    padding_error: float
    ended_share: float
    score: float
    score_deviation: float
    missing_eos_score: float


def check_before_ppo(
    models: PpoModels,
    rollout: Rollout,
    settings: PpoSettings,
    special: SpecialTokens,
    *,
    notice: Callable[[str], None] = lambda _: None,
) -> Preflight:
    """Measure a first rollout of the untouched policy; raise TrainingStopped where one is wrong.

    `notice` is told what is only doubtful.
    """
    check_no_dropout(models)
    if models.value_model is not None:
        check_causal_values(models.value_model, rollout, models.policy.config.vocab_size)
    kl = kl_estimates(rollout.old_logprobs, rollout.ref_logprobs, rollout.response_mask).k1
    found = Preflight(
        kl_to_reference=float(kl.sum(dim=1).mean()),
        ratio_error=ratio_error(models, rollout, settings, special),
        surprisal_z=surprisal_z(rollout),
        padding_error=padding_error(models, rollout, settings, special),
        ended_share=float(rollout.ended.float().mean()),
        score=float(rollout.raw_scores.mean()),
        score_deviation=float(rollout.raw_scores.std()),
        missing_eos_score=missing_eos_score(rollout, settings),
    )
    kl_is_off = abs(found.kl_to_reference) > KL_TOLERANCE
    if kl_is_off:
        refuse(
            f"the policy is {found.kl_to_reference:.4f} nats a response away from the reference "
            "it is a copy of",
            "another_reference",
        )
    if found.ratio_error > RATIO_TOLERANCE:
        refuse(
            f"a second pass over the first rollout gives ratios {found.ratio_error:.1e} off 1",
            "paths_differ",
        )
    _check_rules(rollout, settings, special)
    _check_sampler(models, rollout, settings, special, found)
    if found.padding_error > PADDING_TOLERANCE:
        refuse(
            f"padding changes a log-probability, value or score by {found.padding_error:.2e}",
            "positions_or_mask",
        )
    if found.ended_share < FEWEST_ENDED:
        refuse(
            f"only {found.ended_share:.0%} of the SFT policy's responses end within "
            "model.max_response_tokens",
            "sft_does_not_end",
        )
    for doubt in _doubts(found):
        notice(doubt)
    return found


def _doubts(found: Preflight) -> Iterator[str]:
    """What lets training start and still makes it likely to disappoint."""
    if found.ended_share < WISHED_ENDED:
        yield (
            f"PPO starts from an SFT policy of which {found.ended_share:.0%} of the responses end, "
            f"and {WISHED_ENDED:.0%} are wished for: its first gain will be to end. Train SFT "
            "longer, give it shorter responses, or raise model.max_response_tokens."
        )
    if found.score_deviation < LEAST_SPREAD:
        yield (
            f"the scores of the SFT policy's responses deviate by {found.score_deviation:.2f} "
            f"only, and {LEAST_SPREAD} are wished for: they hardly tell responses apart, and a "
            "kl_coef that others use weighs more. Look at the reward model's scorecard, or set "
            "reward_model.normalize=mean_and_deviation."
        )


def _check_rules(rollout: Rollout, settings: PpoSettings, special: SpecialTokens) -> None:
    """Raise TrainingStopped where the first rollout breaks a rule that each has to keep."""
    errors = rule_errors(rollout, settings, special, kl_coef=settings.kl_coef)
    worst = max(errors.values())
    if worst <= RULE_TOLERANCE:
        return
    facts = errors | explain_rewards(rollout, settings, kl_coef=settings.kl_coef)
    symptom = f"a rule that every rollout has to keep is broken by {worst:.2g}"
    refuse(symptom, _cause({"broken_rules"}, facts))


def _check_sampler(
    models: PpoModels,
    rollout: Rollout,
    settings: PpoSettings,
    special: SpecialTokens,
    found: Preflight,
) -> None:
    """Raise TrainingStopped where the sampler draws from another distribution than is trained."""
    gap = float(
        (rollout.sampler_logprobs - rollout.old_logprobs)[rollout.response_mask].abs().mean()
    )
    is_low = next(models.policy.parameters()).dtype != torch.float32
    ends, promised = end_z(rollout), late_first_end(rollout)
    surprise = f"{found.surprisal_z:+.1f} standard errors more surprising than the policy's entropy"
    signs = {
        "surprisal_z": (
            abs(found.surprisal_z) > MOST_SURPRISAL_Z,
            f"sampled tokens are {surprise}",
        ),
        "end_z": (
            abs(ends) > MOST_SURPRISAL_Z,
            f"{ends:+.1f} standard errors more responses end than the distributions promise",
        ),
        "late_first_end": (
            promised > MOST_PROMISED_ENDS,
            f"{promised:.0f} ends were promised by the distributions before the first one came",
        ),
        "sampler_gap": (
            gap > SAMPLER_GAP * (LOW_PRECISION if is_low else 1.0),
            f"the sampler's log-probabilities are {gap:.1e} away from those that are trained on",
        ),
    }
    raised = {name: said for name, (is_raised, said) in signs.items() if is_raised}
    if raised:
        facts = examine_sampler(models, rollout, settings, special) | {"sampler_gap": gap}
        refuse(next(iter(raised.values())), _cause(set(raised), facts))


def _cause(raised: set[str], facts: Mapping[str, float]) -> str:
    """What the signs of the first rollout point to."""
    return likely_cause(Evidence(0, {}, {}, facts, {}, frozenset(raised))).name


def missing_eos_score(rollout: Rollout, settings: PpoSettings) -> float:
    """min(missing_eos_score, 5th percentile of the scores of responses that ended) (detail P7).

    Where the settings say `replace`, it is `missing_eos_score` alone.
    """
    if settings.missing_eos == "replace":
        return settings.missing_eos_score
    scores = rollout.raw_scores[rollout.ended]
    if not len(scores):
        return settings.missing_eos_score
    return min(settings.missing_eos_score, float(torch.quantile(scores, 0.05)))


def check_no_dropout(models: PpoModels) -> None:
    """Raise TrainingStopped where a module of any of the models would drop anything."""
    for name, model in models.by_name().items():
        dropping = [module for module in model.modules() if dropout_rates(module)]
        if dropping:
            refuse(f"{name} has {len(dropping)} modules with dropout on", "dropout")


@torch.no_grad()
def ratio_error(
    models: PpoModels, rollout: Rollout, settings: PpoSettings, special: SpecialTokens
) -> float:
    """Mean |new / old - 1| over tokens when the same policy passes over the rollout again."""
    error = count = 0.0
    for index in torch.split(torch.arange(len(rollout)), settings.mini_batch_size):
        batch = rollout.sequences.rows(index)
        log_probs = policy_distribution(models.policy, batch, settings, special)
        new = taken_logprobs(log_probs, batch.response_ids)
        log_ratio = new - rollout.old_logprobs[index, : new.shape[1]]  # log(new / old)
        error += float(log_ratio[batch.response_mask].expm1().abs().sum())
        count += float(batch.response_mask.sum())
    return error / count


@torch.no_grad()
def padding_error(
    models: PpoModels, rollout: Rollout, settings: PpoSettings, special: SpecialTokens
) -> float:
    """Largest change that pads on both sides make to 8 responses' numbers (tests 2 and 3)."""
    bare = rollout.sequences.rows(torch.arange(min(8, len(rollout))))
    padded = Sequences(
        pad(bare.prompt_ids, (3, 0), value=special.pad),
        pad(bare.prompt_mask, (3, 0), value=False),
        pad(bare.response_ids, (0, 3), value=special.pad),
        pad(bare.response_mask, (0, 3), value=False),
    )

    def numbers(batch: Sequences) -> Sequence[Tensor]:
        width = bare.response_ids.shape[1]
        log_probs = policy_distribution(models.policy, batch, settings, special)
        per_token = [taken_logprobs(log_probs, batch.response_ids)]
        if models.value_model is not None:
            per_token.append(values_before(models.value_model, batch))
        kept = [tokens[:, :width].masked_fill(~bare.response_mask, 0.0) for tokens in per_token]
        scores = [
            reward_model.member_scores(batch, end_token_ids=special.end)
            for reward_model in models.scorer.sharing_ids
        ]
        return [*kept, *scores]

    pairs = zip(numbers(bare), numbers(padded), strict=True)
    return max(float((first - second).abs().max()) for first, second in pairs)


@torch.no_grad()
def check_causal_values(value_model: ScalarModel, rollout: Rollout, vocabulary: int) -> None:
    """Raise TrainingStopped where a value sees the token that is chosen after it (test 5)."""
    batch = rollout.sequences.rows(torch.tensor([int(rollout.response_mask.sum(dim=1).argmax())]))
    at = batch.response_ids.shape[1] // 2
    changed = batch.response_ids.clone()
    changed[0, at] = (changed[0, at] + 1) % vocabulary
    other = Sequences(batch.prompt_ids, batch.prompt_mask, changed, batch.response_mask)
    before = values_before(value_model, batch)[0, : at + 1]
    after = values_before(value_model, other)[0, : at + 1]
    if float((before - after).abs().max()) > PADDING_TOLERANCE:
        refuse(f"the value of the state before token {at} changes with that token", "value_late")
