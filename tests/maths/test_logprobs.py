"""Log-probabilities: temperature, the column that predicts a token, and the SFT loss."""

import math
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from rlhf_core.maths.logprobs import (
    entropy,
    log_distribution,
    response_columns,
    surprisal_variance,
    taken_logprobs,
)
from rlhf_core.maths.losses import language_model_loss
from rlhf_core.maths.masking import until_end

close_to_vector = partial(assert_close, atol=2e-6, rtol=0)  # the vectors have six decimals


@pytest.mark.parametrize(
    "temperature,logprobs,nats",
    [
        (1.0, [-2.407606, -1.407606, -0.407606], 0.832396),
        (0.7, [-3.117261, -1.68869, -0.260118], 0.650573),  # neighbours differ by 1 / 0.7
    ],
)
def test_logits_are_divided_by_the_temperature(temperature, logprobs, nats):
    log_probs = log_distribution(torch.tensor([[[1.0, 2.0, 3.0]]]), temperature=temperature)
    close_to_vector(log_probs, torch.tensor([[logprobs]]))
    close_to_vector(entropy(log_probs), torch.tensor([[nats]]))


def test_logits_of_half_precision_are_normalized_in_single_precision():
    logits = torch.tensor([[[-30.0, -30.125, -29.0]]], dtype=torch.bfloat16)  # held exactly
    log_probs = log_distribution(logits, temperature=1.0)
    assert log_probs.dtype == torch.float32
    assert_close(log_probs.exp().sum(), torch.tensor(1.0), atol=1e-6, rtol=0)


def test_the_log_probability_is_that_of_the_token_taken():
    log_probs = torch.tensor([[[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]]]).log()
    taken = taken_logprobs(log_probs, torch.tensor([[1, 2]]))
    assert_close(taken, torch.tensor([[math.log(0.2), math.log(0.4)]]))


def test_entropy_of_a_uniform_distribution_is_the_log_of_its_size():
    log_probs = log_distribution(torch.zeros(1, 2, 8), temperature=0.7)
    assert_close(entropy(log_probs), torch.full((1, 2), math.log(8)))


def test_the_variance_of_the_surprisal_is_that_of_draws():
    logits = torch.tensor([[[1.0, 2.0, 3.0, -torch.inf]]])
    log_probs = log_distribution(
        logits.clamp(min=torch.finfo(torch.float32).min / 2), temperature=1
    )
    # p = .090031, .244728, .665241; surprisals 2.407606, 1.407606, .407606; their mean .832396
    squares = [0.090031 * 1.575210**2, 0.244728 * 0.575210**2, 0.665241 * 0.424790**2]
    assert_close(
        surprisal_variance(log_probs),
        torch.tensor([[sum(squares)]]),
        atol=2e-6,  # the numbers above have six decimals
        rtol=0,
    )
    uniform = log_distribution(torch.zeros(1, 2, 8), temperature=1.0)
    assert_close(surprisal_variance(uniform), torch.zeros(1, 2), atol=1e-6, rtol=0)  # float32


def test_a_response_token_is_predicted_one_column_before_its_own():
    # P = 3 prompt columns and T = 5 response columns: tokens sit in 3..7, predicted from 2..6.
    columns = torch.arange(8.0)[None]
    assert response_columns(columns, 5).tolist() == [[2.0, 3.0, 4.0, 5.0, 6.0]]
    vectors = columns[..., None].expand(1, 8, 2)  # logits have one more dimension
    assert response_columns(vectors, 5)[0, :, 1].tolist() == [2.0, 3.0, 4.0, 5.0, 6.0]


INPUT_IDS = torch.tensor([[11, 12, 13, 21, 22, 1, 0, 0]])  # three of the prompt, then end and pads
END = torch.tensor([1])


def _supervised(first_target):
    """Uniform logits that predict the tokens from `first_target` on, those tokens, their mask."""
    targets = INPUT_IDS[:, first_target:]
    logits = torch.zeros(1, 8, 30)
    columns = response_columns(logits, targets.shape[1])
    return columns, targets, until_end(targets, END)


@pytest.mark.parametrize(
    "first_target,supervised",
    [(3, [21, 22, 1]), (1, [12, 13, 21, 22, 1])],  # the response alone; every token
)
def test_uniform_logits_lose_the_log_of_the_vocabulary(first_target, supervised):
    logits, targets, label_mask = _supervised(first_target)
    assert targets[label_mask].tolist() == supervised
    logprobs = taken_logprobs(log_distribution(logits, temperature=1.0), targets)
    loss = language_model_loss(logprobs, label_mask)
    close_to_vector(loss, torch.tensor(3.401197))  # ln 30


def test_only_the_columns_that_predict_the_response_learn():
    logits = torch.zeros(1, 8, 30, requires_grad=True)
    targets = INPUT_IDS[:, 3:]
    log_probs = log_distribution(response_columns(logits, 5), temperature=1.0)
    language_model_loss(taken_logprobs(log_probs, targets), until_end(targets, END)).backward()
    assert logits.grad.abs().sum(dim=-1).nonzero()[:, 1].tolist() == [2, 3, 4]


def test_logits_rounded_to_half_precision_blur_the_log_probability():
    # Why the softmax is taken of unrounded logits: vector BF16, of deviation 3 and mean -30.
    logits = 3 * torch.randn(4, 64, 32_000, generator=torch.Generator().manual_seed(0)) - 30
    taken = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1).view(4, 64)
    exact, rounded = (
        taken_logprobs(log_distribution(given, temperature=1.0), taken)
        for given in (logits, logits.bfloat16())
    )
    error = rounded - exact
    assert error.std().item() == pytest.approx(0.036, abs=0.01)
    assert 0.05 < error.abs().max().item() < 0.1
    assert (error.exp() - 1).abs().max().item() < 0.1  # ratios of .93 to 1.07 of an unmoved policy
