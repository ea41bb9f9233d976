"""The alignment tax: what tuning costs on plain text, as a language-model loss before and after."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from rlhf_core.batches import Encoder, join
from rlhf_core.generation import response_distribution
from rlhf_core.maths.logprobs import taken_logprobs
from rlhf_core.statistics import Interval, bootstrap_mean

CONTEXT_TOKENS = 1
"""The first token of a text is given: nothing comes before it that could predict it."""


class TextLosses(NamedTuple):
    """For each text the sum of its tokens' losses in nats, and how many tokens that are."""

    totals: list[float]
    tokens: list[int]


class AlignmentTax(NamedTuple):
    """Loss on the same texts in nats per token; intervals are over texts."""

    sft: Interval
    ppo: Interval
    difference: Interval
    """PPO minus SFT: above 0, tuning has cost what was known of plain text."""

    texts: int
    tokens: int


def alignment_tax(
    sft: TextLosses, ppo: TextLosses, *, bootstrap_samples: int, seed: int
) -> AlignmentTax:
    """Both policies' losses on the same texts, and their difference text by text."""

    def mean(totals: Sequence[float]) -> Interval:
        return bootstrap_mean(totals, sft.tokens, samples=bootstrap_samples, seed=seed)

    return AlignmentTax(
        sft=mean(sft.totals),
        ppo=mean(ppo.totals),
        difference=mean([b - a for a, b in zip(sft.totals, ppo.totals, strict=True)]),
        texts=len(sft.tokens),
        tokens=sum(sft.tokens),
    )


@torch.no_grad()
def text_losses(
    policy: PreTrainedModel, encoder: Encoder, texts: Sequence[str], *, batch_size: int
) -> TextLosses:
    """The loss of every token but the first of each text, over all token ids as in pretraining.

    Texts are cut at the tokens of a longest prompt with a longest response, which is what the
    policy was trained on; those of fewer than two tokens say nothing and are left out.
    """
    most = encoder.settings.max_prompt_tokens + encoder.settings.max_response_tokens
    rows = [row[:most] for row in encoder.plain_texts(texts)]
    rows = sorted((row for row in rows if len(row) > CONTEXT_TOKENS), key=len)
    found = TextLosses([], [])
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        batch = join(
            [row[:CONTEXT_TOKENS] for row in part],
            [row[CONTEXT_TOKENS:] for row in part],
            encoder.pad_token_id,
        ).to(policy.device)
        log_probs = response_distribution(policy, batch, pad_token_id=None, temperature=1.0)
        losses = -taken_logprobs(log_probs, batch.response_ids)
        losses = losses.masked_fill(~batch.response_mask, 0.0)
        found.totals.extend(losses.sum(dim=1).tolist())
        found.tokens.extend(batch.response_mask.sum(dim=1).tolist())
    return found
