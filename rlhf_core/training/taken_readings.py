"""How the models of SFT and of the reward model read a few texts, taken when they are published."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf_core.batches import Encoder, Sequences, SpecialTokens, join
from rlhf_core.generation import response_distribution
from rlhf_core.maths.logprobs import taken_logprobs
from rlhf_core.maths.masking import masked_mean
from rlhf_core.readings import KEPT, ReadText
from rlhf_core.reward_models import RewardModel, member_scores_in_batches


def fitting_texts(
    encoder: Encoder, texts: Sequence[tuple[str, str]], most: int
) -> list[tuple[str, str]]:
    """The first of the texts that are within the token budgets."""
    prompts, responses = [prompt for prompt, _ in texts], [response for _, response in texts]
    rows = encoder.fitting(encoder.prompts(prompts), encoder.responses(prompts, responses))
    return [texts[row] for row in rows[:most]]


def encoded(encoder: Encoder, texts: Sequence[tuple[str, str]], pad_token_id: int) -> Sequences:
    """Prompts and responses as the encoder makes ids of them."""
    prompts, responses = [prompt for prompt, _ in texts], [response for _, response in texts]
    return join(encoder.prompts(prompts), encoder.responses(prompts, responses), pad_token_id)


@torch.no_grad()
def policy_readings(policy: PreTrainedModel, batch: Sequences) -> list[float]:
    """The mean log-probability of each response's tokens, as SFT takes them."""
    log_probs = response_distribution(policy, batch, pad_token_id=None, temperature=1.0)
    return mean_logprobs(log_probs, batch)


def reward_model_readings(
    reward_model: RewardModel, encoder: Encoder, rankings: pd.DataFrame, special: SpecialTokens
) -> list[ReadText]:
    """How the reward model reads the first response of the first rankings."""
    rows = zip(rankings.prompt, rankings.responses, strict=True)
    texts = fitting_texts(encoder, [(prompt, responses[0]) for prompt, responses in rows], KEPT)
    prompts = [prompt for prompt, _ in texts]
    members = member_scores_in_batches(
        reward_model,
        encoder.prompts(prompts),
        encoder.responses(prompts, [response for _, response in texts]),
        special=special,
        batch_size=KEPT,
    )
    means = members.mean(dim=0).tolist()
    return [ReadText(*text, value) for text, value in zip(texts, means, strict=True)]


def mean_logprobs(log_probs: Tensor, batch: Sequences) -> list[float]:
    """The mean log-probability of each response's tokens."""
    logprobs = taken_logprobs(log_probs, batch.response_ids)
    rows = zip(logprobs, batch.response_mask, strict=True)
    return [float(masked_mean(row, mask)) for row, mask in rows]
