"""From what the reward model says of a response to the score that it is paid.

In this order: divided by the running deviation, bounded, lowered where the response did not end.
"""

from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf_core.maths.rewards import replace_unfinished, subtract_from_unfinished
from rlhf_core.maths.running import RunningMoments, joined
from rlhf_core.settings.ppo import PpoSettings

NOTHING_SEEN = RunningMoments()


class PaidScores(NamedTuple):
    """The scores of a rollout's responses, and the moments of all raw scores until now."""

    scores: Tensor
    seen: RunningMoments


def paid_scores(
    raw_scores: Tensor,
    ended: Tensor,
    settings: PpoSettings,
    *,
    missing_eos_score: float,
    seen: RunningMoments,
    accelerator: Accelerator,
) -> PaidScores:
    """The scores [batch] by which responses are rewarded; `seen` holds the rollouts before.

    `missing_eos_score` is in the reward model's own units, as is `missing_eos_penalty`.
    """
    scale = 1.0
    if settings.scale_scores:
        seen = joined(seen, _moments_over_processes(raw_scores[ended], accelerator))
        scale = seen.deviation or 1.0
    scores = raw_scores / scale
    if settings.reward_clip is not None:
        scores = scores.clamp(-settings.reward_clip, settings.reward_clip)
    if settings.missing_eos == "subtract":
        penalty = settings.missing_eos_penalty / scale
        return PaidScores(
            subtract_from_unfinished(scores, ended, missing_eos_penalty=penalty), seen
        )
    low = missing_eos_score / scale
    return PaidScores(replace_unfinished(scores, ended, missing_eos_score=low), seen)


def _moments_over_processes(scores: Tensor, accelerator: Accelerator) -> RunningMoments:
    """The moments of finite scores, in float64: those of responses that ended, in all processes.

    What a reward model says of unfinished text is undefined (detail P6).
    """
    kept = scores[scores.isfinite()].double()
    sums = torch.stack([torch.tensor(len(kept)).to(kept), kept.sum()])
    count, total = accelerator.reduce(sums, "sum").tolist()
    if not count:
        return NOTHING_SEEN
    squares = accelerator.reduce((kept - total / count).square().sum(), "sum")
    return RunningMoments(count, total / count, float(squares))
