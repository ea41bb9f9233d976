"""Sampling responses: a batched decoder with a key-value cache, and nothing but the policy.

There is no top-k, top-p, penalty or minimum length: the distribution sampled from is exactly the
one whose log-probabilities are taken later (details P2 and P3).
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel

from rlhf_core.batches import Sequences, SpecialTokens, one_below_the_other, pad_left
from rlhf_core.maths.logprobs import log_distribution, response_columns, taken_logprobs
from rlhf_core.maths.masking import fill_after_end, position_ids, until_end
from rlhf_core.threads import side_by_side


class Sampled(NamedTuple):
    """Responses with their prompts, and the log-probability that the sampler gave each token."""

    sequences: Sequences
    logprobs: Tensor


BATCHES_TOGETHER = 4
"""Batches that `draw_responses` samples side by side before progress is told."""


class Drawn(NamedTuple):
    """Responses as ids, the end token included where they ended, and what the sampler gave each."""

    ids: list[list[int]]
    loglikelihoods: list[float]
    """Sum of the log-probabilities of a response's tokens."""


def response_distribution(
    policy: torch.nn.Module,
    sequences: Sequences,
    *,
    pad_token_id: int | None,
    temperature: float,
) -> Tensor:
    """Log-distribution from which each response token was drawn: [batch, response, vocabulary].

    `pad_token_id` is left out of it, as in the sampler: padding is no action (section 6). With None
    the distribution is over all ids, as supervised training has it.
    """
    logits = _pass(policy, sequences).logits
    width = sequences.response_ids.shape[1]
    return _without_pad(response_columns(logits, width), pad_token_id, temperature)


class DistributionAndValues(NamedTuple):
    """What a policy with a value head says of a batch."""

    log_probs: Tensor
    """[batch, response, vocabulary]: as `response_distribution` gives them."""
    values: Tensor
    """[batch, response]: of the state before each response token."""


def distribution_and_values(
    policy_and_value: torch.nn.Module,
    sequences: Sequences,
    *,
    pad_token_id: int | None,
    temperature: float,
) -> DistributionAndValues:
    """Distribution and values from one pass of a `PolicyAndValue`."""
    both = _pass(policy_and_value, sequences)
    width = sequences.response_ids.shape[1]
    logits = response_columns(both.logits, width)
    return DistributionAndValues(
        _without_pad(logits, pad_token_id, temperature), response_columns(both.values, width)
    )


def _pass(policy: torch.nn.Module, sequences: Sequences) -> Any:
    """What the module gives over these ids, its logits from the last prompt token on."""
    attention_mask = sequences.attention_mask
    return policy(
        input_ids=sequences.input_ids.masked_fill(~attention_mask, 0),
        attention_mask=attention_mask,
        position_ids=position_ids(attention_mask),
        use_cache=False,
        logits_to_keep=sequences.response_ids.shape[1] + 1,
    )


def _without_pad(logits: Tensor, pad_token_id: int | None, temperature: float) -> Tensor:
    if pad_token_id is None:
        return log_distribution(logits, temperature=temperature)
    forbidden = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    forbidden[pad_token_id] = True
    lowest = torch.finfo(torch.float32).min / 2
    return log_distribution(
        logits.float().masked_fill(forbidden, lowest * min(temperature, 1.0)),
        temperature=temperature,
    )


@torch.no_grad()
def sample_responses(
    policy: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    end_token_ids: Sequence[int],
    pad_token_id: int,
    max_tokens: int,
    temperature: float,
    generator: torch.Generator,
) -> Sampled:
    """Draw one response to each prompt from softmax(logits / temperature), up to an end token.

    At temperature 0 the most likely token is taken. Rows that have ended leave the batch. The
    draws come from `generator` alone.
    """
    device = policy.device
    prompt_ids, prompt_mask = (part.to(device) for part in pad_left(prompts, pad_token_id))
    ends = torch.tensor(list(end_token_ids), device=device)
    response = torch.full((len(prompts), max_tokens), pad_token_id, device=device)
    logprobs = torch.zeros((len(prompts), max_tokens), device=device)
    live = torch.arange(len(prompts), device=device)
    cache, mask, ids = DynamicCache(config=policy.config), prompt_mask, prompt_ids
    positions = position_ids(prompt_mask)
    for column in range(max_tokens):
        logits = policy(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        taken, taken_log = _draw(logits, pad_token_id, temperature, generator)
        response[live, column] = taken
        logprobs[live, column] = taken_log
        going_on = ~torch.isin(taken, ends)
        if not bool(going_on.any()):
            break
        positions = positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        ids = taken.unsqueeze(1)
        if not bool(going_on.all()):
            kept = going_on.nonzero().squeeze(1)
            cache.batch_select_indices(kept)
            live, mask, ids, positions = live[kept], mask[kept], ids[kept], positions[kept]
    response_mask = until_end(response, ends)
    longest = column + 1
    sequences = Sequences(
        prompt_ids,
        prompt_mask,
        fill_after_end(response, response_mask, pad_token_id)[:, :longest],
        response_mask[:, :longest],
    )
    return Sampled(sequences, logprobs[:, :longest])


def sample_in_batches(
    policy: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    special: SpecialTokens,
    max_tokens: int,
    temperature: float,
    batch_size: int,
    seed: int,
) -> Sampled:
    """Draw one response to each of any number of prompts, in their order.

    Batch i draws from a generator of its own, seeded from `seed` and i, so that the result does not
    depend on which batches are computed side by side.
    """

    def sample(start: int) -> Sampled:
        generator = torch.Generator(device=policy.device)
        return sample_responses(
            policy,
            prompts[start : start + batch_size],
            end_token_ids=special.end,
            pad_token_id=special.pad,
            max_tokens=max_tokens,
            temperature=temperature,
            generator=generator.manual_seed(seed * 65_537 + start),
        )

    starts = range(0, len(prompts), batch_size)
    parts = side_by_side(sample, starts, device=policy.device)
    longest = max(part.logprobs.shape[1] for part in parts)
    return Sampled(
        one_below_the_other([part.sequences for part in parts], special.pad),
        torch.cat([pad(part.logprobs, (0, longest - part.logprobs.shape[1])) for part in parts]),
    )


def draw_responses(
    policy: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    special: SpecialTokens,
    max_tokens: int,
    temperature: float,
    batch_size: int,
    seed: int,
) -> Iterator[Drawn]:
    """Draw one response to each prompt, in their order, some batches at a time.

    In between the caller can tell how far it is. All draws come from `seed`.
    """
    together = BATCHES_TOGETHER * batch_size
    for start in range(0, len(prompts), together):
        sampled = sample_in_batches(
            policy,
            prompts[start : start + together],
            special=special,
            max_tokens=max_tokens,
            temperature=temperature,
            batch_size=batch_size,
            seed=seed * 1_000_003 + start,
        )
        responses, mask = sampled.sequences.response_ids, sampled.sequences.response_mask
        yield Drawn(
            [row[real].tolist() for row, real in zip(responses, mask, strict=True)],
            sampled.logprobs.masked_fill(~mask, 0.0).sum(dim=1).tolist(),
        )


def _draw(
    logits: Tensor, pad_token_id: int, temperature: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    log_probs = _without_pad(logits.unsqueeze(1), pad_token_id, temperature or 1.0)
    if temperature == 0:
        taken = log_probs.squeeze(1).argmax(dim=-1)
    else:
        taken = torch.multinomial(log_probs.squeeze(1).exp(), 1, generator=generator).squeeze(1)
    return taken, taken_logprobs(log_probs, taken.unsqueeze(1)).squeeze(1)
