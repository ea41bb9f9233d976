"""What has to hold of every rollout exactly, and by which fault it would come out as it did."""

import torch
from torch import Tensor

from rlhf_core.batches import SpecialTokens
from rlhf_core.maths.logprobs import taken_logprobs
from rlhf_core.maths.masking import until_end
from rlhf_core.maths.rewards import kl_estimates
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.training.rollouts import PpoModels, Rollout, policy_distribution

COMPARED_ROWS = 2
"""Responses of each rollout that the reference passes over once more."""


def rule_errors(
    rollout: Rollout, settings: PpoSettings, special: SpecialTokens, *, kl_coef: float
) -> dict[str, float]:
    """How far the rollout breaks each rule; 0 where it keeps it."""
    ids, mask = rollout.sequences.response_ids, rollout.response_mask
    ends = torch.tensor(list(special.end), device=ids.device)
    errors = {"mask_error": float((until_end(ids, ends) != mask).any())}
    if not settings.whiten_rewards:
        found, expected = _sums(rollout, settings, kl_coef)
        errors["rewards_error"] = _relative(found - expected, expected)
    return errors


def unfinished_error(rollout: Rollout, settings: PpoSettings, missing_eos_score: float) -> float:
    """1 where responses that did not end have other scores than the rule gives them, else 0."""
    if settings.scale_scores or (settings.reward_clip and settings.missing_eos == "subtract"):
        return 0.0  # what they come to depends on more than the rule
    expected = torch.full_like(rollout.scores, missing_eos_score)
    if settings.missing_eos == "subtract":
        expected = rollout.raw_scores - settings.missing_eos_penalty
    return float(((rollout.scores - expected)[~rollout.ended].abs() > 1e-4).any())


@torch.no_grad()
def reference_error(
    models: PpoModels, rollout: Rollout, settings: PpoSettings, special: SpecialTokens
) -> float:
    """Largest difference of the reference's log-probabilities from those of the rollout's KL."""
    rows = rollout.sequences.rows(torch.arange(min(COMPARED_ROWS, len(rollout))))
    log_probs = policy_distribution(models.reference, rows, settings, special)
    again = taken_logprobs(log_probs, rows.response_ids)
    before = rollout.ref_logprobs[: len(again), : again.shape[1]]
    return float((again - before).masked_fill(~rows.response_mask, 0.0).abs().max())


def reference_probe(models: PpoModels) -> float:
    """A number that changes when the reference's frozen weights do, at next to no cost."""
    frozen = [weight for weight in models.reference.parameters() if not weight.requires_grad]
    return float(sum(weight.flatten()[:1000].double().sum() for weight in frozen))


def explain_rewards(rollout: Rollout, settings: PpoSettings, *, kl_coef: float) -> dict[str, float]:
    """How well each known fault explains the sums of the rewards: the error that it leaves."""
    found, expected = _sums(rollout, settings, kl_coef)
    kl = kl_coef * _kl(rollout, settings)
    scores, tokens = rollout.scores.double(), rollout.response_mask.sum(dim=1).double()
    columns = torch.stack([expected, tokens], dim=1)
    fitted = columns @ torch.linalg.lstsq(columns, found.unsqueeze(1)).solution.squeeze(1)
    explained = {
        "if_kl_sign": scores + kl,
        "if_kl_missing": scores,
        "if_every_token": tokens * scores - kl,
        "if_shifted": fitted,
    }
    return {name: _relative(found - sums, expected) for name, sums in explained.items()}


def _sums(rollout: Rollout, settings: PpoSettings, kl_coef: float) -> tuple[Tensor, Tensor]:
    """Each response's rewards summed, and what they have to sum to (invariant 12).

    GRPO has the KL in its loss, and not in the rewards.
    """
    found = rollout.rewards.double().sum(dim=1)
    penalty = 0.0 if settings.algorithm == "grpo" else kl_coef * _kl(rollout, settings)
    return found, rollout.scores.double() - penalty


def _kl(rollout: Rollout, settings: PpoSettings) -> Tensor:
    estimates = kl_estimates(rollout.old_logprobs, rollout.ref_logprobs, rollout.response_mask)
    per_token: Tensor = estimates._asdict()[settings.kl_estimator]
    return per_token.double().sum(dim=1)


def _relative(difference: Tensor, expected: Tensor) -> float:
    return float(difference.abs().max() / (1 + expected.abs().max()))
