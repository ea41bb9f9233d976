import numpy as np
from numpy.testing import assert_allclose

from rlhf_core.statistics import bootstrap_mean


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation():
    rows = np.random.default_rng(0).normal(size=400)
    found = bootstrap_mean(rows.tolist(), [1] * 400, samples=2000, seed=1)
    half = 1.96 * rows.std() / 20
    assert_allclose(found.mean, rows.mean(), atol=1e-12)
    # A quantile of 2000 draws is known to about 4 % of the interval's half-width.
    expected = [rows.mean() - half, rows.mean() + half]
    assert_allclose([found.low, found.high], expected, atol=0.1 * half)


def test_rows_of_one_prompt_are_drawn_together():
    # 40 prompts with 10 equal rows each say no more than 40 rows.
    hits = [index % 2 for index in range(40)]
    clustered = bootstrap_mean([10 * hit for hit in hits], [10] * 40, samples=2000, seed=1)
    single = bootstrap_mean(hits, [1] * 40, samples=2000, seed=1)
    apart = bootstrap_mean(hits * 10, [1] * 400, samples=2000, seed=1)
    assert clustered == single
    assert clustered.high - clustered.low > 2.5 * (apart.high - apart.low)  # the root of 10 is 3.2


def test_the_mean_is_over_rows_not_over_prompts():
    found = bootstrap_mean([9.0, 0.0], [9, 1], samples=10, seed=0)
    assert found.mean == 0.9


def test_an_interval_is_drawn_from_its_seed():
    rows, counts = [0.0, 1.0, 2.0, 5.0], [1] * 4
    one, same, other = (bootstrap_mean(rows, counts, samples=50, seed=s) for s in (1, 1, 2))
    assert one == same != other


def test_rows_that_do_not_vary_have_no_interval():
    assert bootstrap_mean([2.0] * 5, [1] * 5, samples=20, seed=0) == (2.0, 2.0, 2.0)
