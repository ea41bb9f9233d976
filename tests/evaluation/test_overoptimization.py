import math

import pytest

from rlhf_core.evaluation.overoptimization import (
    best_of_n_fit,
    best_of_n_gain,
    rl_fit,
    rl_gain,
)
from rlhf_core.evaluation.price_section import law_in_words

DISTANCES = [0.5, 1.0, 1.5, 2.0, 3.0]


def test_the_best_of_n_law_is_found_and_peaks_where_the_paper_says():
    fit = best_of_n_fit(DISTANCES, [d * (1.0 - 0.2 * d) for d in DISTANCES])
    assert fit is not None
    assert (fit.alpha, fit.beta) == pytest.approx((1.0, 0.2))
    assert fit.peak_distance == pytest.approx(2.5)  # alpha / (2 beta)
    assert fit.peak_gain == pytest.approx(1.25)  # alpha^2 / (4 beta)
    assert best_of_n_gain(fit, 2.5) == pytest.approx(1.25)
    assert fit.residual == pytest.approx(0, abs=1e-12)


def test_the_rl_law_is_found_and_peaks_where_the_paper_says():
    fit = rl_fit(DISTANCES, [d * (1.0 - 0.2 * math.log(d)) for d in DISTANCES])
    assert fit is not None
    assert (fit.alpha, fit.beta) == pytest.approx((1.0, 0.2))
    assert fit.peak_distance == pytest.approx(math.exp(4))  # exp(alpha / beta - 1) = 54.6
    assert fit.peak_gain == pytest.approx(0.2 * math.exp(4))  # 10.9
    assert rl_gain(fit, math.exp(4)) == pytest.approx(fit.peak_gain)


def test_a_grade_that_only_rises_has_no_peak():
    fit = rl_fit(DISTANCES, [d * (1.0 + 0.1 * math.log(d)) for d in DISTANCES])
    assert fit is not None
    assert (fit.peak_distance, fit.peak_gain) == (None, None)


def test_points_next_to_the_reference_do_not_bend_the_rl_law():
    near = [(0.01, 5.0), (0.2, -3.0)]
    law = [(d, d * (1.0 - 0.2 * math.log(d))) for d in DISTANCES]
    fit = rl_fit(*zip(*near, *law, strict=True))
    assert fit is not None
    assert fit.points == len(DISTANCES)
    assert fit.beta == pytest.approx(0.2)


def test_too_few_distances_say_nothing():
    assert best_of_n_fit([0.0, 1.0, 1.0, 1.0, 2.0], [0.0] * 5) is None
    assert rl_fit([], []) is None


def test_the_law_in_words_has_real_minus_signs_and_a_reachable_n():
    falling = best_of_n_fit(DISTANCES, [d * (1.0 - 0.25 * d) for d in DISTANCES])
    rising = best_of_n_fit(DISTANCES, [d * (1.0 + 0.25 * d) for d in DISTANCES])
    assert falling is not None
    assert rising is not None
    words = law_in_words(falling)
    assert words.startswith("R(d) = d (1.00 − 0.25 d), d = √KL; peak of 1.000 at d = 2.00, about")
    assert law_in_words(rising) == "R(d) = d (1.00 + 0.25 d), d = √KL; it only rises"
