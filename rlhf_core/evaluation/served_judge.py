"""What a served judge says of PPO's answers beside a rival's."""

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_core.judging import Asked, Pair, asked_pairs
from rlhf_core.settings.judge import JudgeSettings
from rlhf_core.statistics import Interval, bootstrap_mean


@dataclass(frozen=True)
class Judgement:
    """What the judge says of all pairs."""

    asked: Sequence[Asked]
    rate: Interval
    """Win rate of our responses; a tie counts half."""

    disagreement: float
    """Share of the pairs on which the verdict changed sides with the order."""

    first_wins: float
    """Share of the clear verdicts for whichever response was read first: a half without bias."""

    unclear: float
    """Share of the answers that were no verdict; they count as ties."""


def judged_pairs(
    pairs: Sequence[Pair], settings: JudgeSettings, *, bootstrap_samples: int, seed: int
) -> Judgement:
    """Ask about every pair in both orders; raises what `asked_pairs` does."""
    asked = list(asked_pairs(pairs, settings, setting="evaluation.judge"))
    verdicts = [verdict for one in asked for verdict in (one.ours_first, one.ours_second)]
    clear = [verdict for verdict in verdicts if verdict in "AB"]
    points = [one.points for one in asked]
    return Judgement(
        asked=asked,
        rate=bootstrap_mean(points, [1.0] * len(points), samples=bootstrap_samples, seed=seed),
        disagreement=sum(_changed_sides(one) for one in asked) / len(asked),
        first_wins=clear.count("A") / len(clear) if clear else 0.5,
        unclear=verdicts.count("?") / len(verdicts),
    )


def _changed_sides(one: Asked) -> bool:
    return one.ours_first == one.ours_second and one.ours_first in "AB"
