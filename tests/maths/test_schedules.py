"""Learning rates over training, and the first step of the optimizer that they scale."""

import pytest
import torch

from rlhf_core.maths.schedules import (
    adam_epsilon_outside,
    constant_with_warmup,
    cosine_to_a_tenth,
    cosine_with_warmup,
    linear_to_zero,
    linear_with_warmup,
    warmup_from_a_tenth,
)


# 1 - 976 / 1953 = 0.500256 of 3e-6; the last update still has 1 / 1953 of it
@pytest.mark.parametrize("update,rate", [(0, 3e-6), (976, 1.500768e-6), (1952, 1.536e-9)])
def test_the_linear_schedule_reaches_zero_after_the_last_update(update, rate):
    share = linear_to_zero(update, updates=1953)
    assert 3e-6 * share == pytest.approx(rate, rel=1e-4)  # the last is given to four digits


def test_the_warm_up_rises_from_a_tenth_in_equal_steps():
    shares = [warmup_from_a_tenth(update, warmup_updates=10) for update in range(13)]
    expected = [0.10, 0.19, 0.28, 0.37, 0.46, 0.55, 0.64, 0.73, 0.82, 0.91, 1, 1, 1]
    assert shares == pytest.approx(expected, abs=1e-12)


def test_no_warm_up_starts_at_the_peak():
    assert warmup_from_a_tenth(0, warmup_updates=0) == 1.0


# 0.1 + 0.9 * (1 + cos(pi / 4)) / 2 = 0.8682 after a quarter
@pytest.mark.parametrize("step,share", [(0, 1.0), (1, 0.8682), (2, 0.55), (3, 0.2318), (4, 0.1)])
def test_the_cosine_falls_to_a_tenth_at_the_last_step(step, share):
    found = cosine_with_warmup(step, steps=5, warmup_steps=0, final_share=0.1)
    assert found == pytest.approx(share, abs=5e-5)  # given to four decimals
    assert cosine_to_a_tenth(step, updates=5) == found


def test_the_cosine_rises_linearly_over_the_warm_up_to_its_peak():
    shares = [
        cosine_with_warmup(step, steps=8, warmup_steps=3, final_share=0.1) for step in range(8)
    ]
    # 1/4, 2/4, 3/4, then the peak and the same five points as without a warm-up
    expected = [0.25, 0.5, 0.75, 1, 0.8682, 0.55, 0.2318, 0.1]
    assert shares == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("steps,warmup_steps", [(1, 0), (3, 3), (2, 5)])
def test_the_cosine_of_a_short_run_stays_between_0_and_1(steps, warmup_steps):
    for step in range(steps + 2):
        share = cosine_with_warmup(step, steps=steps, warmup_steps=warmup_steps, final_share=0.1)
        assert 0 < share <= 1


# lr * g / (g + eps): the bias corrections cancel, and epsilon is outside the root
@pytest.mark.parametrize(
    "gradient,moved",
    [
        (0.01, 9.990009990009992e-06),
        (0.0001, 9.090909090909091e-06),
        (1e-05, 5e-06),
        (1e-06, 9.09090909090909e-07),
    ],
)
def test_the_first_step_of_adam_is_the_learning_rate_damped_by_epsilon(gradient, moved):
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], lr=1e-5, eps=1e-5, weight_decay=0.0)
    weight.grad = torch.full_like(weight, gradient)
    optimizer.step()
    assert -weight.item() == pytest.approx(moved, rel=1e-9)


def test_a_line_falls_from_the_peak_to_its_share_in_equal_steps():
    shares = [
        linear_with_warmup(step, steps=7, warmup_steps=2, final_share=0.2) for step in range(7)
    ]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1.0, 0.8, 0.6, 0.4, 0.2])


def test_a_constant_rate_stays_at_its_peak():
    shares = [constant_with_warmup(step, warmup_steps=2) for step in range(5)]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0, 1.0])


# TensorFlow's lr * g * sqrt(1 - b2) / (1 - b1) * (1 - b1) / (g * sqrt(1 - b2) + eps)
@pytest.mark.parametrize(
    "gradient,moved",
    [
        (0.01, 9.693465699682844e-06),
        (0.0001, 2.4025307335204216e-06),
        (1e-05, 3.0653430031715504e-07),
        (1e-06, 3.1523091832602116e-08),
    ],
)
def test_with_epsilon_outside_the_correction_the_first_step_is_tensorflows(gradient, moved):
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    epsilon = adam_epsilon_outside(1e-5, beta2=0.999, step=1)
    optimizer = torch.optim.AdamW(
        [weight], lr=1e-5, betas=(0.9, 0.999), eps=epsilon, weight_decay=0.0
    )
    weight.grad = torch.full_like(weight, gradient)
    optimizer.step()
    assert -weight.item() == pytest.approx(moved, rel=1e-9)


# The root of the bias correction: 1 / sqrt(1 - 0.999^step)
@pytest.mark.parametrize("step,factor", [(1, 31.6), (10, 10.0), (100, 3.2), (100_000, 1.0)])
def test_the_two_epsilons_grow_alike_over_training(step, factor):
    assert adam_epsilon_outside(1.0, beta2=0.999, step=step) == pytest.approx(factor, rel=0.02)
