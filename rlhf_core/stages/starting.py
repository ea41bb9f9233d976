"""The policy that PPO starts from, chosen among the kept epochs of SFT by the reward model."""

from pathlib import Path

import torch

from rlhf_core.batches import Encoder, SpecialTokens
from rlhf_core.generation import sample_in_batches
from rlhf_core.pretrained import load_policy
from rlhf_core.scorers import Scorer
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.sft_epochs import Start, starting_policy
from rlhf_core.tables import read_demonstrations

JUDGED_PROMPTS = 128
"""Validation prompts that each epoch's policy answers."""


def chosen_start(
    settings: PpoSettings,
    encoder: Encoder,
    special: SpecialTokens,
    scorer: Scorer,
    *,
    data: Path,
    sft: Path,
    seed: int,
) -> Start:
    """The epoch that the recipe names, or whose samples the reward model scores highest.

    All epochs answer the same validation prompts from the same random numbers. A response that did
    not end scores `ppo.missing_eos_score`, as it would in PPO.
    """

    def score(folder: Path) -> float:
        asked = list(dict.fromkeys(read_demonstrations(data, "validation").prompt))
        prompts = [
            row for row in encoder.prompts(asked) if len(row) <= encoder.settings.max_prompt_tokens
        ][:JUDGED_PROMPTS]
        sequences = sample_in_batches(
            load_policy(folder).eval().to(scorer.device),
            prompts,
            special=special,
            max_tokens=encoder.settings.max_response_tokens,
            temperature=settings.temperature,
            batch_size=64,
            seed=seed,
        ).sequences
        with torch.no_grad():
            judgement = scorer.judge(sequences, special=special, batch_size=64)
        ids, mask = sequences.response_ids, sequences.response_mask
        ends = torch.tensor(list(special.end), device=ids.device)
        ended = (torch.isin(ids, ends) & mask).any(dim=1)
        scores = judgement.scores.to(ids.device)
        return float(torch.where(ended, scores, settings.missing_eos_score).mean())

    return starting_policy(sft, settings.sft_epoch, score)
