"""What PPO reports of an update; the definitions are those of the specification's section 3.10."""

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf_core.maths.advantages import explained_variance
from rlhf_core.maths.rewards import kl_estimates
from rlhf_core.training.estimates import moments
from rlhf_core.training.optimization import WeightedMeans
from rlhf_core.training.rollouts import Rollout


def rollout_metrics(
    rollout: Rollout, *, kl_coef: float, accelerator: Accelerator
) -> dict[str, float]:
    """Means over the rollout's responses or tokens, of all processes, before it is optimized on.

    `value` and `explained_variance` are there where there is a value model.
    """
    mask = rollout.response_mask
    kl = kl_estimates(rollout.old_logprobs, rollout.ref_logprobs, mask)
    kl_of_response = kl.k1.sum(dim=1)
    lengths = mask.sum(dim=1)
    rows = float(len(rollout))
    means = WeightedMeans()
    for name, per_response in {
        "raw_score": rollout.raw_scores,
        "score": rollout.scores,
        "reward": rollout.scores - kl_coef * rollout.kl.sum(dim=1),
        "kl_to_reference": kl_of_response,
        "kl_to_reference_k3": kl.k3.sum(dim=1),
        "ended_share": rollout.ended.float(),
        "response_tokens": lengths.float(),
        **rollout.judged,
    }.items():
        means.add(name, float(per_response.mean()), rows)
    means.add("distinct_share", distinct_share(rollout), rows)
    sampler_gap = (rollout.sampler_logprobs - rollout.old_logprobs).abs()
    means.add("entropy", float(rollout.entropy[mask].mean()), float(mask.sum()))
    means.add("surprisal", float(-rollout.old_logprobs[mask].mean()), float(mask.sum()))
    means.add("sampler_gap", float(sampler_gap[mask].mean()), float(mask.sum()))
    result = means.over_processes(accelerator)
    _, score_variance = moments(rollout.scores, torch.ones_like(rollout.ended), accelerator)
    result |= {
        "score_deviation": float(score_variance.sqrt()),
        "kl_smallest": float(kl_of_response.min()),
        "surprisal_z": surprisal_z(rollout),
        "kl_coef": kl_coef,
    }
    return result | value_metrics(rollout) if rollout.baseline == "value_model" else result


def value_metrics(rollout: Rollout) -> dict[str, float]:
    """What a value model said of the rollout, and how much of the returns it explains."""
    explained = explained_variance(rollout.old_values, rollout.returns, rollout.value_mask)
    return {
        "explained_variance": float(explained),
        "value": float(rollout.old_values[rollout.value_mask].mean()),
    }


def surprisal_z(rollout: Rollout) -> float:
    """How far the sampled tokens' surprisal lies from the entropy, in standard errors.

    Beyond about 4 the sampler does not draw from the distribution whose log-probabilities are taken
    (section 3.12); the ratio of new to old cannot see that.
    """
    mask = rollout.response_mask
    gaps = (-rollout.old_logprobs - rollout.entropy).masked_fill(~mask, 0.0).sum(dim=1)
    # The variance is known from the distributions. That of the sample alone is next to 0 where a
    # confident policy happened to draw no rare token, and the known one too small where it did.
    known = rollout.surprisal_variance.masked_fill(~mask, 0.0).sum(dim=1).mean()
    error = (torch.maximum(known, gaps.var()) / len(gaps)).sqrt()
    return float(gaps.mean() / error) if float(error) > 0 else 0.0


def distinct_share(rollout: Rollout) -> float:
    """Share of the responses that are not the same as an earlier one."""
    ids: Tensor = rollout.sequences.response_ids
    return len(torch.unique(ids, dim=0)) / len(ids)
