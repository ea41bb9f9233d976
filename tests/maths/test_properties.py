"""What holds for every rollout, on rollouts drawn at random."""

from functools import partial

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.testing import assert_close

from rlhf_core.maths.advantages import gae
from rlhf_core.maths.losses import ppo_policy_loss, ppo_value_loss
from rlhf_core.maths.masking import last_index, masked_mean, masked_variance, whiten
from rlhf_core.maths.rewards import kl_estimates, shape_rewards, shape_rewards_after_end

close = partial(assert_close, atol=1e-5, rtol=1e-5)  # float32 sums of at most 30 numbers below 30
RESPONSE = 6
finite = st.floats(-3, 3, width=32)
constants = st.floats(0.5, 4, width=32)


@st.composite
def per_token(draw, batch_size):
    rows = st.lists(finite, min_size=RESPONSE, max_size=RESPONSE)
    return torch.tensor(draw(st.lists(rows, min_size=batch_size, max_size=batch_size)))


@st.composite
def rollouts(draw):
    """Masks of responses of every length from 1, and four tensors [batch, response] for them."""
    lengths = draw(st.lists(st.integers(1, RESPONSE), min_size=1, max_size=5))
    response_mask = torch.arange(RESPONSE) < torch.tensor(lengths)[:, None]
    tensors = [draw(per_token(len(lengths))) for _ in range(4)]
    scores = torch.tensor(draw(st.lists(finite, min_size=len(lengths), max_size=len(lengths))))
    return response_mask, scores, *tensors


def _whitened(values, mask):
    variance = masked_variance(values, mask)
    return whiten(values, mask, mean=masked_mean(values, mask), variance=variance)


def _policy_gradient(logprobs, *others, clip_range=0.2):
    logprobs = logprobs.clone().requires_grad_()
    ppo_policy_loss(logprobs, *others, clip_range=clip_range).loss.backward()
    return logprobs.grad


@given(rollout=rollouts())
def test_in_the_first_mini_batch_nothing_has_moved(rollout):
    mask, _, logprobs, advantages, *_ = rollout
    assume(masked_variance(advantages, mask) > 1e-2)
    whitened = _whitened(advantages, mask)
    result = ppo_policy_loss(logprobs, logprobs.clone(), whitened, mask, clip_range=0.2)
    # The ratio is 1 everywhere, so the loss is the mean of whitened advantages, which is 0.
    close(result.loss, torch.tensor(0.0))
    assert result.approx_kl.item() == 0
    assert result.clip_fraction.item() == 0


@given(rollout=rollouts(), kl_coef=st.floats(0, 2, width=32))
def test_rewards_sum_to_the_score_minus_the_weighted_kl(rollout, kl_coef):
    mask, scores, logprobs, ref_logprobs, *_ = rollout
    kl = kl_estimates(logprobs, ref_logprobs, mask).k1
    real_kl = torch.stack(
        [
            (new - ref)[counts].sum()
            for new, ref, counts in zip(logprobs, ref_logprobs, mask, strict=True)
        ]
    )
    for shape in (shape_rewards, shape_rewards_after_end):
        close(shape(scores, kl, mask, kl_coef=kl_coef).sum(dim=1), scores - kl_coef * real_kl)


@given(rollout=rollouts())
def test_k2_and_k3_are_never_negative(rollout):
    mask, _, logprobs, ref_logprobs, *_ = rollout
    for nearness in (1, 1e-3, 1e-6):
        kl = kl_estimates(logprobs, logprobs + nearness * ref_logprobs, mask)
        assert (kl.k2 >= 0).all()
        assert (kl.k3 >= 0).all()


@given(rollout=rollouts())
def test_at_lambda_1_an_advantage_is_the_rewards_to_come_minus_the_value(rollout):
    mask, _, rewards, values, others, _ = rollout
    real = rewards.masked_fill(~mask, 0.0)
    to_come = real.flip(1).cumsum(dim=1).flip(1).masked_fill(~mask, 0.0)
    estimates = gae(rewards, values, mask, gamma=1.0, gae_lambda=1.0)
    close(estimates.advantages, to_come - values.masked_fill(~mask, 0.0))
    close(estimates.returns, to_come)
    close(gae(rewards, others, mask, gamma=1.0, gae_lambda=1.0).returns, to_come)


@given(rollout=rollouts(), gamma=st.floats(0, 1, width=32))
def test_at_lambda_0_an_advantage_is_the_error_of_one_step(rollout, gamma):
    mask, _, rewards, values, *_ = rollout
    estimates = gae(rewards, values, mask, gamma=gamma, gae_lambda=0.0)
    for row, last in enumerate(last_index(mask).tolist()):
        for t in range(last + 1):
            next_value = values[row, t + 1] if t < last else 0.0
            error = rewards[row, t] + gamma * next_value - values[row, t]
            close(estimates.advantages[row, t], error)


@given(
    rollout=rollouts(),
    gamma=st.floats(0, 1, width=32),
    gae_lambda=st.floats(0, 1, width=32),
)
def test_an_advantage_is_the_discounted_sum_of_all_errors_to_come(rollout, gamma, gae_lambda):
    mask, _, rewards, values, *_ = rollout
    estimates = gae(rewards, values, mask, gamma=gamma, gae_lambda=gae_lambda)
    for row, last in enumerate(last_index(mask).tolist()):
        reward, value = rewards[row].tolist(), [*values[row, : last + 1].tolist(), 0.0]
        errors = [reward[t] + gamma * value[t + 1] - value[t] for t in range(last + 1)]
        for t in range(last + 1):
            discounted = [(gamma * gae_lambda) ** k * e for k, e in enumerate(errors[t:])]
            close(estimates.advantages[row, t], torch.tensor(sum(discounted)))


@given(rollout=rollouts())
def test_whitened_advantages_have_mean_0_and_variance_1(rollout):
    mask, _, advantages, *_ = rollout
    assume(masked_variance(advantages, mask) > 1e-2)
    whitened = _whitened(advantages, mask)
    counted = whitened[mask]
    assert_close(counted.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
    assert_close(counted.var(correction=0), torch.tensor(1.0), atol=1e-4, rtol=0)
    assert (whitened[~mask] == 0).all()


@given(rollout=rollouts(), constant=finite, gae_lambda=st.floats(0, 1, width=32))
def test_a_constant_added_to_scores_and_values_changes_no_advantage(rollout, constant, gae_lambda):
    mask, scores, kl, values, *_ = rollout
    estimate = partial(gae, value_mask=mask, gamma=1.0, gae_lambda=gae_lambda)
    plain = estimate(shape_rewards(scores, kl, mask, kl_coef=0.1), values)
    shifted = estimate(shape_rewards(scores + constant, kl, mask, kl_coef=0.1), values + constant)
    close(shifted.advantages, plain.advantages)


@given(rollout=rollouts())
def test_the_gradient_of_micro_batches_weighted_by_tokens_is_that_of_the_whole(rollout):
    mask, _, logprobs, advantages, *_ = rollout
    tensors = (0.1 * logprobs, torch.zeros_like(logprobs), advantages, mask)
    whole = _policy_gradient(*tensors)
    shares = (mask.sum(dim=1) / mask.sum())[:, None]
    rows = [_policy_gradient(*(tensor[[row]] for tensor in tensors)) for row in range(len(mask))]
    close(torch.cat(rows) * shares, whole)


@given(rollout=rollouts(), seed=st.integers(0, 99))
def test_the_order_of_a_mini_batch_changes_no_gradient(rollout, seed):
    mask, _, logprobs, advantages, *_ = rollout
    tensors = (0.1 * logprobs, torch.zeros_like(logprobs), advantages, mask)
    order = torch.randperm(len(mask), generator=torch.Generator().manual_seed(seed))
    permuted = _policy_gradient(*(tensor[order] for tensor in tensors))
    close(permuted, _policy_gradient(*tensors)[order])


@given(rollout=rollouts(), factor=constants)
def test_scores_and_kl_coefficient_scaled_alike_change_no_gradient(rollout, factor):
    mask, scores, logprobs, ref_logprobs, *_ = rollout
    kl = kl_estimates(logprobs, ref_logprobs, mask).k1

    def gradient(scale):
        rewards = shape_rewards(scale * scores, kl, mask, kl_coef=scale * 0.1)
        # Values of 0, and advantages whitened: their scale is gone before the loss sees them.
        raw = gae(rewards, torch.zeros_like(rewards), mask, gamma=1.0, gae_lambda=0.95).advantages
        assume(masked_variance(raw, mask) > 1e-2)
        return _policy_gradient(logprobs, logprobs - 0.1, _whitened(raw, mask), mask)

    close(gradient(factor), gradient(1.0))


@given(rollout=rollouts(), junk=finite, columns=st.integers(1, 3))
def test_padding_changes_no_loss(rollout, junk, columns):
    mask, _, new, old, third, _ = rollout
    pad = partial(torch.nn.functional.pad, pad=(0, columns))
    bare = (new, old, third)
    padded = [pad(tensor, value=junk) for tensor in bare]
    for loss in (
        partial(ppo_policy_loss, clip_range=0.2),
        partial(ppo_value_loss, value_clip_range=0.2),
    ):
        close(loss(*padded, pad(mask)), loss(*bare, mask))


@given(rollout=rollouts(), junk=finite)
def test_what_lies_behind_the_end_changes_neither_rewards_nor_advantages(rollout, junk):
    mask, scores, logprobs, ref_logprobs, values, _ = rollout

    def estimates(logprobs, values):
        kl = kl_estimates(logprobs, ref_logprobs, mask).k1
        rewards = shape_rewards(scores, kl, mask, kl_coef=0.1)
        return rewards, *gae(rewards, values, mask, gamma=1.0, gae_lambda=0.95)

    spoiled = estimates(logprobs.masked_fill(~mask, junk), values.masked_fill(~mask, junk))
    assert_close(spoiled, estimates(logprobs, values))
