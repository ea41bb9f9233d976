"""What a batch of compared responses costs one member, by read-out and loss; and comparisons made.

The gradient of all of it flows to the numbers at the response tokens.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf_core.batches import SharedPrompts, SpecialTokens
from rlhf_core.maths.losses import better_worse_pairs
from rlhf_core.maths.masking import has_ended
from rlhf_core.maths.preference_losses import (
    best_of_k_losses,
    compared_pairs,
    davidson_losses,
    mean_of_each_prompt,
    pair_losses,
    per_token_pair_losses,
    tokens_that_differ,
)
from rlhf_core.reward_models import RewardModel, member_scores_in_batches, read_out
from rlhf_core.settings.reward_model import Readout, RewardModelSettings
from rlhf_core.training.ranked import Rankings


@dataclass(frozen=True)
class Compared:
    """Responses of a batch and what was said of them; those of one `comparison` are compared."""

    batch: SharedPrompts
    ranks: Tensor
    comparison: Tensor
    margins: Tensor
    """[comparisons]: by how much the better ones of each have to lead."""
    special: SpecialTokens

    def scores(self, per_token: Tensor, readout: Readout) -> Tensor:
        """One score per response: [batch, response] -> [batch]."""
        ends = torch.tensor(list(self.special.end), device=per_token.device)
        ended = has_ended(self.batch.response_ids, ends, self.batch.response_mask)
        return read_out(per_token, self.batch.response_mask, ended, readout)

    def losses(self, per_token: Tensor, settings: RewardModelSettings) -> Tensor:
        """The loss of each comparison under one member's numbers: [comparisons]."""
        count = int(self.comparison.max()) + 1
        if settings.readout == "per_token":
            return self._per_token_losses(per_token, count)
        scores = self.scores(per_token, settings.readout)
        if settings.loss == "best_of_k":
            return best_of_k_losses(scores, self.ranks, self.comparison)
        first, second, tied = compared_pairs(self.ranks, self.comparison, ties=settings.ties)
        margin = self.margins[self.comparison[first]] if settings.margins else 0.0
        difference = scores[first] - scores[second]
        losses = (
            davidson_losses(difference, tied, tie_weight=settings.tie_weight, margin=margin)
            if settings.ties == "davidson"
            else pair_losses(
                difference, tied, margin=margin, label_smoothing=settings.label_smoothing
            )
        )
        return mean_of_each_prompt(losses, self.comparison[first], count)

    def _per_token_losses(self, per_token: Tensor, count: int) -> Tensor:
        better, worse = better_worse_pairs(self.ranks, self.comparison)
        ids, mask = self.batch.response_ids, self.batch.response_mask
        where = tokens_that_differ(ids[better], mask[better], ids[worse], mask[worse])
        losses = per_token_pair_losses(per_token[better], per_token[worse], where)
        return mean_of_each_prompt(losses, self.comparison[better], count)


class Comparisons(NamedTuple):
    """Every comparison of validation rows: which responses, and both scores; each [pairs]."""

    prompt_index: Tensor
    better: Tensor
    worse: Tensor
    better_tokens: Tensor
    worse_tokens: Tensor
    better_response: Tensor
    """Which of the row's responses it is, counted from 0."""
    worse_response: Tensor
    disagreement: Tensor
    """Deviation of the lead over the members of an ensemble; 0 where there is one."""

    @property
    def correct(self) -> Tensor:
        """1 where the better response scores higher, 0.5 where both score the same."""
        return (self.better > self.worse).float() + 0.5 * (self.better == self.worse).float()


def compare(
    reward_model: RewardModel,
    rankings: Rankings,
    *,
    special: SpecialTokens,
    batch_size: int,
) -> Comparisons:
    """Score every response of `rankings` once and set each pair of different rank side by side.

    The scores of an ensemble are the means over its members.
    """
    reward_model.eval()
    flat = rankings.ranked(range(len(rankings.prompts)))
    members = member_scores_in_batches(
        reward_model,
        [flat.prompts[number] for number in flat.prompt_index],
        flat.responses,
        special=special,
        batch_size=batch_size,
    )
    tokens = torch.tensor([len(response) for response in flat.responses])
    place = torch.tensor([place for row in rankings.responses for place in range(len(row))])
    better, worse = list[int](), list[int]()
    start = 0
    for ranks in rankings.ranks:  # one by one: all at once would be a matrix of all responses
        pairs = better_worse_pairs(torch.tensor(ranks), torch.zeros(len(ranks)).long())
        better += (start + pairs.better).tolist()
        worse += (start + pairs.worse).tolist()
        start += len(ranks)
    scores = members.mean(dim=0)
    return Comparisons(
        flat.comparison[better],
        scores[better],
        scores[worse],
        tokens[better],
        tokens[worse],
        place[better],
        place[worse],
        (members[:, better] - members[:, worse]).std(dim=0, correction=0),
    )
