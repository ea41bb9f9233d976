"""From one loss per token to one number: the reductions that PPO codes differ in (detail P24).

Each is a mean over something that is counted, and comes with that count, so that the means of
micro-batches and processes, weighted by it, are the mean over all of them. Of the token losses
[1, 1, 1, 1] and [3] they give 7/5, (1 + 3)/2 and (4 + 3)/2.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from rlhf_core.maths.masking import masked_mean
from rlhf_core.maths.shapes import PerToken, Scalar, TokenMask


class Reduced(NamedTuple):
    """A mean, and its weight: the count of what it is a mean over."""

    mean: Scalar
    weight: Scalar


def token_mean(per_token: PerToken, mask: TokenMask) -> Reduced:
    """Mean over all tokens: a long response weighs more (OpenRLHF, verl)."""
    return Reduced(masked_mean(per_token, mask), mask.sum())


def micro_batch_mean(per_token: PerToken, mask: TokenMask) -> Reduced:
    """Mean over this micro-batch's tokens, which counts as one.

    As N+ and TRL accumulate gradients: the size of a micro-batch is then part of the method.
    """
    return Reduced(masked_mean(per_token, mask), torch.ones_like(mask.sum()))


def sequence_mean(per_token: PerToken, mask: TokenMask) -> Reduced:
    """Mean over responses of the mean over each one's tokens: every response weighs the same."""
    kept = per_token.masked_fill(~mask, 0.0)
    lengths = mask.sum(dim=1)
    means = kept.sum(dim=1) / lengths.clamp(min=1)
    return _over_sequences(means, lengths)


def sequence_sum(per_token: PerToken, mask: TokenMask) -> Reduced:
    """Mean over responses of the sum over each one's tokens, as in the policy gradient itself."""
    return _over_sequences(per_token.masked_fill(~mask, 0.0).sum(dim=1), mask.sum(dim=1))


def _over_sequences(per_sequence: torch.Tensor, lengths: torch.Tensor) -> Reduced:
    count = (lengths > 0).sum()
    return Reduced(per_sequence.sum() / count.clamp(min=1), count)


Reduce = Callable[[PerToken, TokenMask], Reduced]

REDUCTIONS: Mapping[str, Reduce] = {
    "token_mean": token_mean,
    "micro_batch_mean": micro_batch_mean,
    "sequence_mean": sequence_mean,
    "sequence_sum": sequence_sum,
}
"""By the name that a recipe calls it."""
