"""How reward grows and falls with distance from the reference: the laws of arXiv:2210.10760.

With d = sqrt(KL(policy || reference)) and R the grade gained over the reference,

    best-of-n:  R(d) = d * (alpha - beta * d)
    RL:         R(d) = d * (alpha - beta * ln d)

Both are linear in alpha and beta, so least squares has one answer. The RL law has an infinite slope
at 0 and is not fitted near it.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

FEWEST_POINTS = 4
"""Two numbers are fitted; with fewer points than this the fit would say nothing."""

NEAREST = 0.3
"""Distances below this, in sqrt(nats), are left out of the RL fit."""


class Fit(NamedTuple):
    """A law with its two numbers, and where it peaks."""

    alpha: float
    beta: float
    peak_distance: float | None
    """d at which the law peaks; None where it only rises (beta <= 0)."""

    peak_gain: float | None
    points: int
    residual: float
    """Root mean square of what the law leaves unexplained, in units of the grade."""


def best_of_n_fit(distances: Sequence[float], gains: Sequence[float]) -> Fit | None:
    """R(d) = d (alpha - beta d): peak at alpha / (2 beta), alpha^2 / (4 beta) high.

    None where fewer than four points lie off 0.
    """
    fitted = _fit(distances, gains, lambda d: d, nearest=0.0)
    if fitted is None:
        return None
    alpha, beta, points, residual = fitted
    rises_only = beta <= 0 or alpha <= 0
    peak = None if rises_only else alpha / (2 * beta)
    return Fit(alpha, beta, peak, None if peak is None else alpha * peak / 2, points, residual)


def rl_fit(distances: Sequence[float], gains: Sequence[float]) -> Fit | None:
    """R(d) = d (alpha - beta ln d): peak at exp(alpha / beta - 1), beta times that high.

    None where fewer than four points lie beyond `NEAREST`.
    """
    fitted = _fit(distances, gains, math.log, nearest=NEAREST)
    if fitted is None:
        return None
    alpha, beta, points, residual = fitted
    # Beyond e^20 nats^0.5 no policy goes: such a law only rises.
    peak = math.exp(alpha / beta - 1) if beta > 0 and alpha / beta < 20 else None
    return Fit(alpha, beta, peak, None if peak is None else beta * peak, points, residual)


def best_of_n_gain(fit: Fit, distance: float) -> float:
    """What the best-of-n law says at a distance."""
    return distance * (fit.alpha - fit.beta * distance)


def rl_gain(fit: Fit, distance: float) -> float:
    """What the RL law says at a distance above 0."""
    return distance * (fit.alpha - fit.beta * math.log(distance))


class _Solution(NamedTuple):
    alpha: float
    beta: float
    points: int
    residual: float


def _fit(
    distances: Sequence[float],
    gains: Sequence[float],
    second: Callable[[float], float],
    *,
    nearest: float,
) -> _Solution | None:
    """Least squares of gain = d * alpha - d * second(d) * beta over the distances that count."""
    kept = [
        (distance, gain)
        for distance, gain in zip(distances, gains, strict=True)
        if distance > nearest and math.isfinite(distance) and math.isfinite(gain)
    ]
    if len({distance for distance, _ in kept}) < FEWEST_POINTS:
        return None
    design = np.array([[distance, -distance * second(distance)] for distance, _ in kept])
    wanted = np.array([gain for _, gain in kept])
    (alpha, beta), *_ = np.linalg.lstsq(design, wanted, rcond=None)
    left = wanted - design @ np.array([alpha, beta])
    residual = float(np.sqrt(np.mean(left**2)))
    return _Solution(float(alpha), float(beta), len(kept), residual)
