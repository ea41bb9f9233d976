"""What a verdict rests on: the numbers of a step, of the first one, and of those before."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean


@dataclass(frozen=True)
class Evidence:
    """The numbers of one update; one that is not known is NaN, which is past no limit."""

    step: int
    now: Mapping[str, float]
    start: Mapping[str, float]
    """Those of the first rollout, of the untouched policy."""
    facts: Mapping[str, float]
    """Settings, and what was examined because an alarm was raised."""
    history: Mapping[str, Sequence[float]]
    """Finite values of earlier updates and this one."""
    raised: frozenset[str] = field(default_factory=frozenset)
    """Alarms that are past a limit."""

    def __getitem__(self, name: str) -> float:
        return self.now.get(name, self.facts.get(name, math.nan))

    def share(self, name: str) -> float:
        """The number as a share of that at the start."""
        start = self.start.get(name, math.nan)
        return self[name] / start if start > 0 else math.nan

    def change(self, name: str) -> float:
        """How far the number is above that at the start."""
        return self[name] - self.start.get(name, math.nan)

    def mean_of_first(self, name: str, count: int) -> float:
        """Mean over the first updates that had the number; NaN where there are too few."""
        return _mean(self.history.get(name, ())[:count], count)

    def mean_of_last(self, name: str, count: int) -> float:
        """Mean over the last updates that had the number; NaN where there are too few."""
        return _mean(self.history.get(name, ())[-count:], count)

    def is_raised(self, *alarms: str) -> bool:
        """Whether any of these alarms is past a limit."""
        return not self.raised.isdisjoint(alarms)


def _mean(values: Sequence[float], count: int) -> float:
    return fmean(values) if len(values) == count else math.nan
