"""How likely a policy and the reference find ranked responses: what DPO compares."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf_core.batches import SpecialTokens, join
from rlhf_core.errors import DataError
from rlhf_core.maths.direct_preferences import dpo_loss, implicit_rewards
from rlhf_core.maths.logprobs import taken_logprobs
from rlhf_core.maths.losses import better_worse_pairs
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.threads import side_by_side
from rlhf_core.training.optimization import Part, WeightedMeans, own_share
from rlhf_core.training.ranked import Ranked, Rankings
from rlhf_core.training.rollouts import policy_distribution


def comparing_rows(rankings: Rankings) -> list[int]:
    """The rows in which a response is ranked above another; DataError where all are ties."""
    rows = [row for row, ranks in enumerate(rankings.ranks) if len(set(ranks)) > 1]
    if not rows:
        raise DataError(
            f"None of {len(rankings)} preferences ranks one response above another: DPO has "
            "nothing to learn from. Give rankings without ties, or another ppo.algorithm."
        )
    return rows


@dataclass(frozen=True)
class ReferenceLikelihoods:
    """Ranked responses with their log-probabilities under the reference, taken once."""

    rankings: Rankings
    settings: PpoSettings
    special: SpecialTokens
    ref_logprobs: Sequence[Tensor]
    """For each row, of each of its responses."""

    def part(self, policy: nn.Module, rows: list[int]) -> Part:
        """The loss of these rows and what it says of their pairs; weighted by prompts."""
        ranked = self.rankings.ranked(rows)
        logprobs = response_logprobs(policy, ranked, self.settings, self.special)
        device = logprobs.device
        ref_logprobs = torch.cat([self.ref_logprobs[row] for row in rows]).to(device)
        rewards = implicit_rewards(logprobs, ref_logprobs, kl_coef=self.settings.kl_coef)
        ranks, prompt_index = ranked.ranks.to(device), ranked.prompt_index.to(device)
        loss = dpo_loss(
            rewards, ranks, prompt_index, label_smoothing=self.settings.dpo.label_smoothing
        )
        pairs = better_worse_pairs(ranks, prompt_index)
        lead = (rewards[pairs.better] - rewards[pairs.worse]).detach()
        metrics = {
            "implicit_accuracy": float(
                (lead > 0).float().mean() + 0.5 * (lead == 0).float().mean()
            ),
            "implicit_margin": float(lead.mean()),
        }
        return Part(loss.mean(), float(len(rows)), metrics)

    @torch.no_grad()
    def measured(self, policy: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        """Loss, accuracy and margin over all rows, means over the batches of each process."""
        means = WeightedMeans()
        rows = own_share(range(len(self.rankings)), accelerator)
        size = self.settings.dpo.batch_size
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        parts = side_by_side(
            lambda batch: self.part(policy, batch), batches, device=accelerator.device
        )
        for part in parts:
            for name, value in {"policy_loss": float(part.loss), **part.metrics}.items():
                means.add(f"validation_{name}", value, part.weight)
        return means.over_processes(accelerator)


@torch.no_grad()
def with_reference(
    rankings: Rankings, reference: nn.Module, settings: PpoSettings, special: SpecialTokens
) -> ReferenceLikelihoods:
    """The rows of `rankings` that compare, with what the reference says of their responses."""
    rows = comparing_rows(rankings)
    kept = Rankings(
        [rankings.prompts[row] for row in rows],
        [rankings.responses[row] for row in rows],
        [rankings.ranks[row] for row in rows],
    )
    lengths = [a + b for a, b in zip(*kept.lengths, strict=True)]
    order = sorted(range(len(kept)), key=lambda row: lengths[row])
    size = settings.dpo.batch_size
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    device = next(reference.parameters()).device
    found = side_by_side(
        lambda batch: response_logprobs(reference, kept.ranked(batch), settings, special).cpu(),
        batches,
        device=device,
    )
    ref_logprobs: dict[int, Tensor] = {}
    for batch, logprobs in zip(batches, found, strict=True):
        of_rows = torch.split(logprobs, [len(kept.responses[row]) for row in batch])
        ref_logprobs |= dict(zip(batch, of_rows, strict=True))
    return ReferenceLikelihoods(
        kept, settings, special, [ref_logprobs[row] for row in range(len(kept))]
    )


def response_logprobs(
    policy: nn.Module, ranked: Ranked, settings: PpoSettings, special: SpecialTokens
) -> Tensor:
    """The log-probability of each whole response, its end token included: [responses]."""
    batch = join(
        [ranked.prompts[number] for number in ranked.prompt_index], ranked.responses, special.pad
    ).to(next(policy.parameters()).device)
    log_probs = policy_distribution(policy, batch, settings, special)
    per_token = taken_logprobs(log_probs, batch.response_ids)
    return per_token.masked_fill(~batch.response_mask, 0.0).sum(dim=1)
