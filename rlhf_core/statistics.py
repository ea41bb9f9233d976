"""Intervals by bootstrap, over prompts rather than rows where rows of a prompt belong together."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean and the bounds that hold 95 % of its bootstrap distribution."""

    mean: float
    low: float
    high: float


def bootstrap_mean(
    totals: Sequence[float], counts: Sequence[float], *, samples: int, seed: int
) -> Interval:
    """sum(totals) / sum(counts), with a percentile interval from resampling the clusters.

    Cluster i (a prompt, say) adds `totals[i]` over `counts[i]` rows; clusters are drawn with
    replacement (Efron and Tibshirani 1993, chapter 13). One row per cluster is the plain mean.
    """
    total, count = np.asarray(totals, dtype=float), np.asarray(counts, dtype=float)
    generator = np.random.default_rng(seed)
    means = np.empty(samples)
    for index in range(samples):
        drawn = generator.integers(0, len(total), len(total))
        means[index] = total[drawn].sum() / max(count[drawn].sum(), 1e-12)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(total.sum() / count.sum()), float(low), float(high))
