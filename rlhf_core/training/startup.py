"""What PPO was given: it has to read texts as the stages did that made its models.

A template, space or read-out that differs shows in no reward curve (specification, section 6.1), so
the numbers that each model gave some texts when it was published are asked for again.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf_core.batches import Encoder, Sequences, SpecialTokens, join
from rlhf_core.generation import response_distribution
from rlhf_core.maths.logprobs import taken_logprobs
from rlhf_core.maths.masking import masked_mean
from rlhf_core.models import weights_digest
from rlhf_core.readings import KEPT, ReadText
from rlhf_core.reward_models import RewardModel, member_scores_in_batches
from rlhf_core.sentinel.diagnosis import refuse, stop
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.training.rollouts import PpoModels, policy_distribution

READING_TOLERANCE = 0.02
"""Largest change of a reading in float32, over texts read one by one or side by side."""
LOW_PRECISION_TOLERANCE = 0.2
"""The same where weights are of lower precision."""


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
    return _means(log_probs, batch)


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


@torch.no_grad()
def check_readings(
    models: PpoModels,
    encoder: Encoder,
    settings: PpoSettings,
    special: SpecialTokens,
    *,
    of_policy: Sequence[ReadText],
    of_reward_model: Sequence[ReadText],
) -> None:
    """Raise TrainingStopped where policy or reward model read a text otherwise than before."""
    device = models.policy.device
    if of_policy:
        batch = encoded(encoder, _texts(of_policy), special.pad).to(device)
        untempered = settings.model_copy(update={"temperature": 1.0})
        log_probs = policy_distribution(models.policy, batch, untempered, special)
        found = _means(log_probs, batch)
        _compare(found, of_policy, "SFT policy", "template_differs", models.policy)
    if of_reward_model and models.scorer.sharing_ids:
        batch = encoded(encoder, _texts(of_reward_model), special.pad).to(device)
        (members,) = [
            model.member_scores(batch, end_token_ids=special.end)
            for model in models.scorer.sharing_ids[:1]
        ]
        found = members.mean(dim=0).tolist()
        _compare(found, of_reward_model, "reward model", "reward_text_differs", models.policy)


def check_same_reference(models: PpoModels, digest: str, *, step: int) -> None:
    """Raise TrainingStopped where the reference's weights are not those of this digest any more."""
    if weights_digest(models.reference) != digest:
        stop(
            "ppo",
            "was refused at its end",
            "the reference's weights are not those of the start",
            "reference_moves",
            alarm="reference",
            step=step,
        )


def _compare(
    found: Sequence[float],
    readings: Sequence[ReadText],
    name: str,
    cause: str,
    policy: PreTrainedModel,
) -> None:
    tolerance = READING_TOLERANCE
    if next(policy.parameters()).dtype != torch.float32:
        tolerance = LOW_PRECISION_TOLERANCE
    differences = [abs(now - reading.value) for now, reading in zip(found, readings, strict=True)]
    worst = max(range(len(differences)), key=differences.__getitem__)
    if not differences[worst] <= tolerance:
        refuse(
            f"the {name} gives {found[worst]:.3f} to a text to which it gave "
            f"{readings[worst].value:.3f} when it was published",
            cause,
        )


def _means(log_probs: Tensor, batch: Sequences) -> list[float]:
    logprobs = taken_logprobs(log_probs, batch.response_ids)
    rows = zip(logprobs, batch.response_mask, strict=True)
    return [float(masked_mean(row, mask)) for row, mask in rows]


def _texts(readings: Sequence[ReadText]) -> list[tuple[str, str]]:
    return [(reading.prompt, reading.response) for reading in readings]
