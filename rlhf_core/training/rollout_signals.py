"""Numbers of a rollout that the sentinel watches beside the means that PPO reports."""

import math

import torch
from torch import Tensor

from rlhf_core.maths.masking import masked_mean, masked_variance
from rlhf_core.maths.ngrams import unique_ngram_share
from rlhf_core.maths.rewards import kl_estimates
from rlhf_core.training.rollouts import Rollout


def rollout_signals(rollout: Rollout, *, max_response_tokens: int) -> dict[str, float]:
    """Deviations, extremes and shares over this process's responses."""
    mask, ids = rollout.response_mask, rollout.sequences.response_ids
    kl_of_response = kl_estimates(rollout.old_logprobs, rollout.ref_logprobs, mask).k1.sum(dim=1)
    lengths = mask.sum(dim=1)
    raw = rollout.returns - rollout.old_values  # the advantages before they were whitened
    finished = rollout.raw_scores[rollout.ended]
    found = {
        "raw_score_deviation": _deviation(rollout.raw_scores),
        "largest_score": float(rollout.raw_scores.abs().max()),
        "kl_standard_error": _deviation(kl_of_response) / math.sqrt(len(rollout)),
        "end_z": end_z(rollout),
        "late_first_end": late_first_end(rollout),
        "empty_share": float(((lengths <= 1) & rollout.ended).float().mean()),
        "at_limit_share": float((lengths >= max_response_tokens).float().mean()),
        "advantage_mean": float(masked_mean(raw, mask)),
        "advantage_deviation": float(masked_variance(raw, mask).sqrt()),
        "largest_advantage": float(raw.masked_fill(~mask, 0.0).abs().max()),
        "unique_bigrams": float(unique_ngram_share(ids, mask, 2).mean()),
        "repetition": 1.0 - float(unique_ngram_share(ids, mask, 4).mean()),
    }
    if len(finished):
        found["score_quartile"] = float(torch.quantile(finished.float(), 0.25))
    return found


def end_z(rollout: Rollout) -> float:
    """How far the number of ends lies from what the distributions promise, in standard errors.

    The sum of the end tokens' probabilities over all tokens that were drawn is its expectation,
    whatever was drawn before; a sampler that suppresses the end falls short of it.
    """
    chances = rollout.end_probability.masked_fill(~rollout.response_mask, 0.0)
    gaps = rollout.ended.float() - chances.sum(dim=1)
    # Known from the distributions, or found in the sample where a rare end was not drawn there.
    known = (chances * (1 - chances)).sum(dim=1).mean()
    error = (torch.maximum(known, gaps.var()) / len(gaps)).sqrt()
    return float(gaps.mean() / error) if float(error) > 0 else 0.0


def late_first_end(rollout: Rollout) -> float:
    """How many ends the distributions promised before the first one came.

    Whatever the policy, it passes x once in e^x rollouts; a least length makes it pass any number.
    """
    lengths = rollout.response_mask.sum(dim=1)
    ends = lengths[rollout.ended]
    first = int(ends.min() if len(ends) else lengths.max()) - 1
    chances = rollout.end_probability.masked_fill(~rollout.response_mask, 0.0)
    return float(chances[:, :first].sum())


def _deviation(values: Tensor) -> float:
    return float(values.std()) if len(values) > 1 else 0.0
