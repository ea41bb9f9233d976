"""What a comparison costs a reward model beyond the plain pair: margins, ties, doubtful labels."""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from rlhf_core.maths.losses import better_worse_pairs
from rlhf_core.maths.shapes import PerSequence, TokenIds, TokenMask

Ties = Literal["drop", "half", "davidson"]


class ComparedPairs(NamedTuple):
    """Indices of the responses of each pair, each [pairs], and which pairs are ties."""

    first: Int[Tensor, "pairs"]
    second: Int[Tensor, "pairs"]
    tied: Tensor
    """[pairs], bool: no one is better; elsewhere the first is."""


def compared_pairs(
    ranks: Int[Tensor, "batch"], prompt_index: Int[Tensor, "batch"], *, ties: Ties
) -> ComparedPairs:
    """Every pair of one prompt in which the first is ranked better, and ties where they count."""
    pairs = better_worse_pairs(ranks, prompt_index)
    if ties == "drop":
        return ComparedPairs(*pairs, torch.zeros_like(pairs.better).bool())
    same_prompt = prompt_index.unsqueeze(1) == prompt_index.unsqueeze(0)
    equal = (ranks.unsqueeze(1) == ranks.unsqueeze(0)) & same_prompt
    first, second = torch.nonzero(equal.triu(diagonal=1), as_tuple=True)
    tied = torch.arange(len(pairs.better) + len(first), device=ranks.device) >= len(pairs.better)
    return ComparedPairs(torch.cat([pairs.better, first]), torch.cat([pairs.worse, second]), tied)


def pair_losses(
    difference: Float[Tensor, "pairs"],
    tied: Tensor,
    *,
    margin: Float[Tensor, "pairs"] | float = 0.0,
    label_smoothing: float = 0.0,
) -> Float[Tensor, "pairs"]:
    """softplus(-(d - m)) for a pair of scores with d = better - worse (arXiv:2307.09288, eq. 2).

    A tie has the soft label 1/2: (softplus(-d) + softplus(d)) / 2, least at d = 0. With smoothing
    a label is taken to be wrong with that probability: (1 - s) softplus(-(d - m)) + s softplus(d -
    m).
    """
    lead = difference - margin
    losses = softplus(-lead)
    if label_smoothing > 0:
        losses = (1 - label_smoothing) * losses + label_smoothing * softplus(lead)
    halves = (softplus(-difference) + softplus(difference)) / 2
    return torch.where(tied, halves, losses)


def davidson_losses(
    difference: Float[Tensor, "pairs"],
    tied: Tensor,
    *,
    tie_weight: float,
    margin: Float[Tensor, "pairs"] | float = 0.0,
) -> Float[Tensor, "pairs"]:
    """-log of the probability of what was seen under Davidson's ties (JASA 65, 1970, eq. 2.2).

    With d = first - second and v the tie weight, the first wins, the second wins and neither does
    in the proportion e^(d/2) : e^(-d/2) : v. A weight of 1 makes a tie of equal scores as likely as
    each win; with 0 it would be Bradley and Terry's model.
    """
    won = difference - margin
    log_weight = math.log(tie_weight)

    def log_total(half: Tensor) -> Tensor:
        return torch.logsumexp(torch.stack([half, -half, torch.full_like(half, log_weight)]), dim=0)

    wins = log_total(won / 2) - won / 2
    ties = log_total(difference / 2) - log_weight
    return torch.where(tied, ties, wins)


def mean_of_each_prompt(
    losses: Float[Tensor, "pairs"], prompt_of_pair: Int[Tensor, "pairs"], prompts: int
) -> Float[Tensor, "prompts"]:
    """The mean over the pairs of each prompt that are left; 0 for a prompt without any."""
    zeros = losses.new_zeros(prompts)
    totals = zeros.index_add(0, prompt_of_pair, losses)
    counts = zeros.index_add(0, prompt_of_pair, torch.ones_like(losses))
    return totals / counts.clamp(min=1)


def per_token_pair_losses(
    better: Float[Tensor, "pairs response"],
    worse: Float[Tensor, "pairs response"],
    compared: TokenMask,
) -> Float[Tensor, "pairs"]:
    """-log sigmoid(better - worse) at every compared token, mean over them (DeepSpeed-Chat)."""
    losses = softplus(worse - better).masked_fill(~compared, 0.0)
    return losses.sum(dim=1) / compared.sum(dim=1).clamp(min=1)


def tokens_that_differ(
    first_ids: TokenIds, first_mask: TokenMask, second_ids: TokenIds, second_mask: TokenMask
) -> TokenMask:
    """True from the first token in which two responses differ to the end of the longer one.

    The padding of the shorter one counts, as in DeepSpeed-Chat. Two equal responses, to different
    prompts, differ from their first token on.
    """
    either = first_mask | second_mask
    differ = ((first_ids != second_ids) | (first_mask != second_mask)) & either
    started = differ.long().cumsum(dim=1) > 0
    nowhere = ~differ.any(dim=1, keepdim=True)
    return either & (started | nowhere)


def best_of_k_losses(
    scores: PerSequence, ranks: Int[Tensor, "batch"], prompt_index: Int[Tensor, "batch"]
) -> Float[Tensor, "prompts"]:
    """Per prompt, -log softmax(scores)[best]: one choice among K (arXiv:1909.08593, eq. 1).

    Where several responses share the best rank it is the mean over them; a prompt whose responses
    all do costs nothing and teaches nothing.
    """
    prompts = int(prompt_index.max()) + 1
    of_prompt = prompt_index.unsqueeze(0) == torch.arange(prompts, device=scores.device)[:, None]
    logits = scores.expand(prompts, -1).masked_fill(~of_prompt, -math.inf)
    log_shares = torch.log_softmax(logits, dim=1)
    best = ranks.expand(prompts, -1).masked_fill(~of_prompt, torch.iinfo(ranks.dtype).max)
    is_best = best == best.amin(dim=1, keepdim=True)
    chosen = is_best & (is_best.sum(dim=1) < of_prompt.sum(dim=1)).unsqueeze(1)
    return -log_shares.masked_fill(~chosen, 0.0).sum(dim=1) / chosen.sum(dim=1).clamp(min=1)
