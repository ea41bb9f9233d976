"""How figures are worded for a reader."""

from collections.abc import Callable

from rlhf_core.statistics import Interval


def decimal(number: float, places: int = 3) -> str:
    """That many decimals, with a real minus sign and none before a zero."""
    return f"{number:z.{places}f}".replace("-", "−")


def short(number: float) -> str:
    """Two decimals, where the third stands elsewhere."""
    return decimal(number, 2)


def nats(number: float) -> str:
    """One decimal, which is as much as the estimate is worth."""
    return decimal(number, 1)


def percent(share: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * share:.1f} %"


def bounds(interval: Interval, word: Callable[[float], str] = decimal) -> str:
    """The interval's bounds."""
    return f"{word(interval.low).removesuffix(' %')} to {word(interval.high)}"


def with_interval(interval: Interval, word: Callable[[float], str] = decimal) -> str:
    """The mean and, in brackets, the bounds."""
    return f"{word(interval.mean)} [{bounds(interval, word)}]"
