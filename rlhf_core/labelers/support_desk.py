"""The grade of the embedded world's replies, as a labeler that never errs."""

from collections.abc import Sequence

from rlhf_core.world.gold import gold_scores


def gold(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """The gold score of each finished reply, from 0 to 1; see `rlhf_core.world.gold`."""
    return list(gold_scores(prompts, responses, [True] * len(responses)))
