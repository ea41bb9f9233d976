"""Responses of a published policy, as text."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rlhf_core.batches import Encoder, SpecialTokens
from rlhf_core.errors import DataError
from rlhf_core.generation import sample_in_batches
from rlhf_core.models import end_token_ids
from rlhf_core.pretrained import load_policy, load_tokenizer
from rlhf_core.settings.model import ModelSettings


class Response(NamedTuple):
    """A response, and whether it ended by itself within the budget."""

    prompt: str
    text: str
    ended: bool


def sample_texts(
    policy_folder: Path,
    model: ModelSettings,
    prompts: Sequence[str],
    *,
    temperature: float,
    seed: int,
) -> list[Response]:
    """Draw one response to each prompt; at temperature 0 the most likely tokens are taken.

    Raises DataError for a prompt that is longer than the policy was trained on.
    """
    tokenizer = load_tokenizer(policy_folder)
    policy = load_policy(policy_folder)
    encoder = Encoder(tokenizer, model)
    ids = encoder.prompts(prompts)
    for prompt, row in zip(prompts, ids, strict=True):
        if len(row) > model.max_prompt_tokens:
            raise DataError(
                f"The prompt {prompt[:40]!r}… has {len(row)} tokens, but the policy was trained on "
                f"at most {model.max_prompt_tokens}: shorten it."
            )
    special = SpecialTokens(
        end_token_ids(policy.generation_config, tokenizer), encoder.pad_token_id
    )
    sequences = sample_in_batches(
        policy,
        ids,
        special=special,
        max_tokens=model.max_response_tokens,
        temperature=temperature,
        batch_size=64,
        seed=seed,
    ).sequences
    rows = [
        row[mask].tolist()
        for row, mask in zip(sequences.response_ids, sequences.response_mask, strict=True)
    ]
    return [
        Response(prompt, text, row[-1] in special.end)
        for prompt, text, row in zip(prompts, encoder.texts(rows), rows, strict=True)
    ]
