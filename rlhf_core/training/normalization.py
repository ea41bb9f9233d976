"""The zero and the scale of a reward model's scores, set after its training (section 2.4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf_core.batches import Encoder, SpecialTokens
from rlhf_core.errors import TrainingStopped
from rlhf_core.generation import sample_in_batches
from rlhf_core.maths.normalization import centred, standardized
from rlhf_core.pretrained import load_policy
from rlhf_core.reward_models import RewardModel, member_scores_in_batches, rescale_member
from rlhf_core.settings.reward_model import RewardModelSettings

LEAST_DEVIATION = 1e-6
"""Below it scores are one number but for rounding, and cannot be scaled to deviation 1."""


class Reading(NamedTuple):
    """A tokenizer with a template, and its tokens with a meaning of their own."""

    encoder: Encoder
    special: SpecialTokens


class Texts(NamedTuple):
    """Token ids of prompts and of one response to each."""

    prompts: Sequence[Sequence[int]]
    responses: Sequence[Sequence[int]]


@dataclass(frozen=True)
class SftSamples:
    """Responses of the SFT policy, to judge a reward model by."""

    sft: Path
    own: Reading
    """How the policy reads."""
    reading: Reading
    """How the reward model does."""
    batch_size: int
    seed: int

    def __call__(self, prompts: Sequence[str]) -> Texts:
        """One response to each prompt at temperature 1, as the reward model reads it.

        Prompts that are too long, and responses that did not end, are left out.
        """
        encoder, special = self.own
        encoded = encoder.prompts(prompts)
        fitting = encoder.fitting(encoded, [[]] * len(encoded))
        if not fitting:
            return Texts([], [])
        sequences = sample_in_batches(
            load_policy(self.sft).eval(),
            [encoded[row] for row in fitting],
            special=special,
            max_tokens=encoder.settings.max_response_tokens,
            temperature=1.0,
            batch_size=self.batch_size,
            seed=self.seed,
        ).sequences
        rows = [
            row[mask].tolist()
            for row, mask in zip(sequences.response_ids, sequences.response_mask, strict=True)
        ]
        ended = [place for place, row in enumerate(rows) if row[-1] in special.end]
        asked, answers = [fitting[place] for place in ended], [rows[place] for place in ended]
        if self.reading is self.own:
            return Texts([encoded[row] for row in asked], answers)
        texts = [prompts[row] for row in asked]
        responses = encoder.texts(answers)
        theirs = self.reading.encoder
        return Texts(theirs.prompts(texts), theirs.responses(texts, responses))


def member_scores_of(
    reward_model: RewardModel, texts: Texts, settings: RewardModelSettings, special: SpecialTokens
) -> Tensor:
    """What each member says of the texts: [members, texts]."""
    if not texts.prompts:
        return torch.zeros(len(reward_model), 0)
    return member_scores_in_batches(
        reward_model,
        texts.prompts,
        texts.responses,
        special=special,
        batch_size=4 * settings.batch_size,
    )


def normalize(
    reward_model: RewardModel, texts: Texts, settings: RewardModelSettings, special: SpecialTokens
) -> None:
    """Shift each member in place, and scale it where asked, by its scores of the texts."""
    if settings.normalize_on == "nothing":
        return
    if not texts.prompts:
        raise TrainingStopped(
            "None of the SFT policy's responses ended, so its scores have no origin there: train "
            "SFT longer, or set reward_model.normalize_on=demonstrations."
        )
    scores = member_scores_of(reward_model, texts, settings, special)
    for member, of_member in enumerate(scores):
        if settings.normalize == "mean":
            affine = centred(of_member)
        elif float(of_member.std(correction=0)) < LEAST_DEVIATION:
            raise TrainingStopped(
                f"The reward model gives all of {len(of_member)} texts the score "
                f"{float(of_member[0]):.4g}, which cannot be scaled to deviation 1: it has learnt "
                "nothing. Look at its learning rate and at the preferences."
            )
        else:
            affine = standardized(of_member)
        rescale_member(reward_model, member, affine)
