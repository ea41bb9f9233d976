"""Responses of a policy beside their prompts and scores, to be read by a person."""

import json
from collections.abc import Sequence

from rlhf_core.batches import Encoder
from rlhf_core.training.rollouts import Rollout


def sample_lines(prompts: Sequence[str], rollout: Rollout, encoder: Encoder) -> list[str]:
    """One JSON line for each response, with what the reward model says of it."""
    rows = zip(
        rollout.sequences.response_ids,
        rollout.response_mask,
        rollout.ended,
        rollout.scores,
        strict=True,
    )
    return [
        json.dumps(
            {
                "prompt": prompt,
                "response": encoder.texts([ids[mask].tolist()])[0],
                "ended": bool(ended),
                "score": round(float(score), 4),
            },
            ensure_ascii=False,
        )
        for prompt, (ids, mask, ended, score) in zip(prompts, rows, strict=False)
    ]
