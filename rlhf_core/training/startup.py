"""What PPO was given: it has to read texts as the stages did that made its models.

A template, space or read-out that differs shows in no reward curve (specification, section 6.1), so
the numbers that each model gave some texts when it was published are asked for again.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from rlhf_core.batches import Encoder, SpecialTokens
from rlhf_core.models import weights_digest
from rlhf_core.readings import ReadText
from rlhf_core.sentinel.diagnosis import refuse, stop
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.training.rollouts import PpoModels, policy_distribution
from rlhf_core.training.taken_readings import encoded, mean_logprobs

READING_TOLERANCE = 0.02
"""Largest change of a reading in float32, over texts read one by one or side by side."""
NO_SCORE = 1e4
"""No reward model that learnt from comparisons gives such a number."""
LOW_PRECISION_TOLERANCE = 0.2
"""The same where weights are of lower precision."""


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
    """Raise TrainingStopped where policy or reward model read a text otherwise than before.

    Or where padding is an end: every padded text would then be another one.
    """
    if special.pad in special.end:
        refuse(f"token {special.pad} both pads and ends", "pad_is_end")
    device = models.policy.device
    if of_policy:
        batch = encoded(encoder, _texts(of_policy), special.pad).to(device)
        untempered = settings.model_copy(update={"temperature": 1.0})
        log_probs = policy_distribution(models.policy, batch, untempered, special)
        found = mean_logprobs(log_probs, batch)
        _compare(found, of_policy, "SFT policy", "template_differs", models.policy)
    if of_reward_model and models.scorer.sharing_ids:
        batch = encoded(encoder, _texts(of_reward_model), special.pad).to(device)
        (members,) = [
            model.member_scores(batch, end_token_ids=special.end)
            for model in models.scorer.sharing_ids[:1]
        ]
        found = members.mean(dim=0).tolist()
        if _are_scores(found):
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


def _are_scores(found: Sequence[float]) -> bool:
    """Whether these may be scores at all; where they are not, the gate before PPO says what is."""
    return all(abs(score) < NO_SCORE for score in found) and len(set(found)) > 1


def _texts(readings: Sequence[ReadText]) -> list[tuple[str, str]]:
    return [(reading.prompt, reading.response) for reading in readings]
