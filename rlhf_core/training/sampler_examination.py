"""What a sampler does that it should not, told from the tokens that it never draws.

Looked into once an alarm says that rollouts and log-probabilities do not belong together: it costs
a pass of the policy over the rollout, several times over the vocabulary.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlhf_core.batches import SpecialTokens
from rlhf_core.maths.logprobs import taken_logprobs
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.training.rollouts import PpoModels, Rollout, policy_distribution

MISSING = 10.0
"""Tokens that should have been drawn from a region and never were: chance does it once in e^10."""
RATIOS = torch.logspace(-0.5, 0.5, 41, base=10.0)
"""Temperatures that are tried, as multiples of the one that log-probabilities are taken at."""
BETTER = 10.0
"""Nats by which another temperature has to explain the draws better."""


@dataclass
class _Region:
    """What is expected beyond the bounds that the draws never passed."""

    rank: int = 0
    mass_above: float = 0.0
    first_end: int = 0
    beyond_rank: float = 0.0
    beyond_mass: float = 0.0
    before_end: float = 0.0
    kept_by_rank: float = 0.0
    kept_by_mass: float = 0.0
    """Nats by which keeping to the rank, or to the mass, explains the draws better."""
    likelihoods: Tensor = field(default_factory=lambda: torch.zeros(len(RATIOS)).double())


@torch.no_grad()
def examine_sampler(
    models: PpoModels, rollout: Rollout, settings: PpoSettings, special: SpecialTokens
) -> dict[str, float]:
    """Whether the draws are greedy, keep to a top k or top p, a least length or a temperature.

    Each number is 0 where it is not so, and `temperature_ratio` 1.
    """
    region = _Region()
    lengths = rollout.response_mask.sum(dim=1)
    ends = lengths[rollout.ended]
    region.first_end = int(ends.min() if len(ends) else lengths.max()) - 1
    parts = torch.split(torch.arange(len(rollout)), settings.mini_batch_size)
    for index in parts:
        _bounds(region, *_pass(models, rollout, index, settings, special))
    for index in parts:
        log_probs, ids, mask = _pass(models, rollout, index, settings, special)
        _beyond(region, log_probs, mask, special)
        _fit_temperature(region, log_probs, ids, mask)
    best = int(region.likelihoods.argmax())
    gains = {
        "temperature": float(region.likelihoods[best] - region.likelihoods[len(RATIOS) // 2]),
        "top_k": region.kept_by_rank if region.beyond_rank > MISSING else 0.0,
        "top_p": region.kept_by_mass if region.beyond_mass > MISSING else 0.0,
    }
    better = max(gains, key=gains.__getitem__)
    explained = better if gains[better] > BETTER else ""
    greedy = region.beyond_rank > MISSING and region.rank == 0
    return {
        "greedy": float(greedy),
        "top_k": float(region.rank + 1) if explained == "top_k" else 0.0,
        "top_p": region.mass_above if explained == "top_p" else 0.0,
        "min_tokens": float(region.first_end) if region.before_end > MISSING else 0.0,
        "temperature_ratio": float(RATIOS[best]) if explained == "temperature" else 1.0,
    }


def _pass(
    models: PpoModels,
    rollout: Rollout,
    index: Tensor,
    settings: PpoSettings,
    special: SpecialTokens,
) -> tuple[Tensor, Tensor, Tensor]:
    rows = rollout.sequences.rows(index)
    log_probs = policy_distribution(models.policy, rows, settings, special)
    return log_probs, rows.response_ids, rows.response_mask


def _bounds(region: _Region, log_probs: Tensor, ids: Tensor, mask: Tensor) -> None:
    likelier = log_probs > taken_logprobs(log_probs, ids).unsqueeze(-1)
    region.rank = max(region.rank, int(likelier.sum(dim=-1)[mask].max()))
    above = (log_probs.exp() * likelier).sum(dim=-1)[mask].max()
    region.mass_above = max(region.mass_above, float(above))


def _beyond(region: _Region, log_probs: Tensor, mask: Tensor, special: SpecialTokens) -> None:
    """Add up the probability of all that lies beyond the bounds."""
    chances = log_probs.exp()[mask].sort(dim=-1, descending=True).values
    before = chances.cumsum(dim=-1) - chances
    region.beyond_rank += float(chances[:, region.rank + 1 :].sum())
    beyond = before > region.mass_above + 1e-6
    region.beyond_mass += float(chances[beyond].sum())
    region.kept_by_rank -= float(chances[:, : region.rank + 1].sum(dim=-1).log().sum())
    region.kept_by_mass -= float(chances.masked_fill(beyond, 0.0).sum(dim=-1).log().sum())
    end = log_probs[..., list(special.end)].exp().sum(dim=-1).masked_fill(~mask, 0.0)
    region.before_end += float(end[:, : region.first_end].sum())


def _fit_temperature(region: _Region, log_probs: Tensor, ids: Tensor, mask: Tensor) -> None:
    drawn = log_probs[mask]
    for number, ratio in enumerate(RATIOS.tolist()):
        other = (drawn / ratio).log_softmax(dim=-1)
        region.likelihoods[number] += other.gather(-1, ids[mask].unsqueeze(-1)).double().sum()
