"""Moments and averages that grow over training, each step's from those of the step before."""

from typing import NamedTuple

from torch import Tensor


class RunningMoments(NamedTuple):
    """Number, mean and summed squared deviations of everything seen so far."""

    number: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    @property
    def deviation(self) -> float:
        """The biased standard deviation; 0 where nothing has been seen."""
        return (self.squares / self.number) ** 0.5 if self.number else 0.0


def joined(first: RunningMoments, second: RunningMoments) -> RunningMoments:
    """The moments of both together (Chan, Golub and LeVeque 1979, eq. 2.1)."""
    if not second.number:
        return first
    number = first.number + second.number
    apart = second.mean - first.mean
    return RunningMoments(
        number,
        first.mean + apart * second.number / number,
        first.squares + second.squares + apart**2 * first.number * second.number / number,
    )


def moved_average(average: Tensor, value: Tensor, *, decay: float) -> Tensor:
    """decay * average + (1 - decay) * value: the exponential average one step later (P25)."""
    return average.lerp(value, 1 - decay)
