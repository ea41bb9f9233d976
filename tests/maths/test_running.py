"""Moments over training, and the exponential average of weights."""

import math
import statistics
from functools import reduce

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_core.maths.running import RunningMoments, joined, moved_average

numbers = st.lists(st.floats(-50, 50), min_size=1, max_size=5)


def moments_of(batch: list[float]) -> RunningMoments:
    mean = statistics.fmean(batch)
    return RunningMoments(len(batch), mean, sum((number - mean) ** 2 for number in batch))


@given(st.lists(numbers, min_size=1, max_size=6))
def test_moments_joined_batch_by_batch_are_those_of_everything_at_once(batches):
    everything = [number for batch in batches for number in batch]
    seen = reduce(joined, map(moments_of, batches), RunningMoments())
    assert seen.number == len(everything)
    assert seen.mean == pytest.approx(statistics.fmean(everything), abs=1e-9)
    # float64; the variance cancels where the numbers are equal and far from 0
    assert seen.deviation == pytest.approx(statistics.pstdev(everything), abs=1e-6)


def test_a_batch_without_numbers_changes_nothing():
    seen = moments_of([1.0, 5.0])
    assert joined(seen, RunningMoments()) == seen
    assert RunningMoments().deviation == 0.0


# 1 - 0.992^n: .008, .07718, .6336, .98198 (to the digits given); half of it after 86.3 steps
@pytest.mark.parametrize(
    "steps,average", [(1, 0.008), (10, 0.07718), (125, 0.6336), (500, 0.98198)]
)
def test_the_average_of_weights_nears_them_by_its_decay(steps, average):
    found = torch.zeros(1, dtype=torch.float64)
    for _ in range(steps):
        found = moved_average(found, torch.ones(1, dtype=torch.float64), decay=0.992)
    assert found.item() == pytest.approx(average, abs=5e-5)


def test_half_of_a_change_has_come_after_the_half_life():
    half_life = math.log(0.5) / math.log(0.992)
    assert half_life == pytest.approx(86.3, abs=0.05)
    found = torch.zeros(1, dtype=torch.float64)
    for _ in range(86):
        found = moved_average(found, torch.ones(1, dtype=torch.float64), decay=0.992)
    assert found.item() < 0.5 < moved_average(found, torch.ones(1).double(), decay=0.992).item()
