"""Plain text beside PPO: whose gradient is added, how much of it, and in what order it is read."""

from collections import Counter
from itertools import islice

import pytest
import torch
from accelerate import Accelerator
from torch.testing import assert_close

from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.settings.ptx import PtxSettings
from rlhf_core.training.ppo import texts_of_updates
from rlhf_core.training.ptx import PtxTerm, cut_texts
from tests.tiny_models import PAD, tiny_policy, tiny_ppo_models
from tests.training.test_ppo import history

EXAMPLES = [[3, 4, 5, 6], [7, 8, 1], [9, 10, 11, 3, 4, 5]]

close = {"atol": 1e-5, "rtol": 1e-4}  # float32 sums in another order, of gradients up to about 1


def text_gradients(policy, *, coef=1.0):
    """The gradient of the mean loss of a token, example by example and without padding."""
    losses = []
    for ids in EXAMPLES:
        logits = policy(torch.tensor([ids])).logits[0, :-1]
        losses += torch.nn.functional.cross_entropy(
            logits, torch.tensor(ids[1:]), reduction="none"
        ).unbind()
    parameters = list(policy.parameters())
    return [coef * grad for grad in torch.autograd.grad(torch.stack(losses).mean(), parameters)]


def norm(gradients):
    return float(torch.cat([grad.flatten() for grad in gradients]).norm())


def added(policy, term, of_ppo):
    """What the term makes of these gradients of PPO, and its metrics."""
    for parameter, grad in zip(policy.parameters(), of_ppo, strict=True):
        parameter.grad = grad.clone()
    metrics = term.add_gradients(Accelerator(), policy, policy, [0, 1, 2])
    return [parameter.grad for parameter in policy.parameters()], metrics


def ones(policy):
    return [torch.ones_like(parameter) for parameter in policy.parameters()]


@pytest.mark.parametrize("micro_batch_size", [None, 1, 2])
def test_the_gradient_of_text_is_added_to_that_of_ppo_with_its_weight(micro_batch_size):
    policy = tiny_policy()
    settings = PtxSettings(coef=27.8, micro_batch_size=micro_batch_size)
    found, metrics = added(policy, PtxTerm(EXAMPLES, settings, PAD), ones(policy))
    alone = text_gradients(policy)
    for grad, text in zip(found, alone, strict=True):
        assert_close(grad, 1 + 27.8 * text, atol=1e-4, rtol=1e-4)  # 27.8 times what `close` allows
    ratio = norm(alone) / norm(ones(policy))
    assert metrics["ptx_grad_norm_ratio"] == pytest.approx(ratio, rel=1e-4)
    assert metrics["ptx_grad_norm"] == pytest.approx(norm(alone), rel=1e-4)
    assert metrics["ptx_coef"] == 27.8


def test_a_weight_by_ratio_makes_the_texts_gradient_as_long_as_was_asked():
    policy = tiny_policy()
    term = PtxTerm(EXAMPLES, PtxSettings(grad_norm_ratio=0.5), PAD)
    found, metrics = added(policy, term, ones(policy))
    difference = [grad - 1 for grad in found]
    assert norm(difference) == pytest.approx(0.5 * norm(ones(policy)), rel=1e-3)

    # The next step's gradient of PPO is three times as long: the mean length is 0.9 + 0.1 * 3.
    _, later = added(policy, term, [3 * grad for grad in ones(policy)])
    assert later["ptx_coef"] == pytest.approx(1.2 * metrics["ptx_coef"], rel=1e-4)


def test_a_gradient_that_is_no_number_is_not_remembered():
    policy = tiny_policy()
    term = PtxTerm(EXAMPLES, PtxSettings(grad_norm_ratio=0.5), PAD)
    _, before = added(policy, term, ones(policy))
    added(policy, term, [torch.nan * grad for grad in ones(policy)])  # a step that is skipped
    _, after = added(policy, term, ones(policy))
    assert after["ptx_coef"] == pytest.approx(before["ptx_coef"], rel=1e-5)


def test_a_weight_without_a_gradient_of_ppo_gets_that_of_the_text():
    policy = tiny_policy()
    policy.zero_grad()
    term = PtxTerm(EXAMPLES, PtxSettings(coef=2.0), PAD)
    metrics = term.add_gradients(Accelerator(), policy, policy, [0, 1, 2])
    for parameter, text in zip(policy.parameters(), text_gradients(policy, coef=2.0), strict=True):
        assert_close(parameter.grad, text, **close)
    assert metrics["ptx_grad_norm_ratio"] == 0.0


def test_long_texts_are_cut_and_nothing_is_lost_but_single_tokens():
    texts = [[1, 2, 3, 4, 5, 6, 7], [8], [9, 10], []]
    assert cut_texts(texts, max_tokens=3) == [[1, 2, 3], [4, 5, 6], [9, 10]]
    assert cut_texts(texts, max_tokens=10) == [[1, 2, 3, 4, 5, 6, 7], [9, 10]]


def test_every_example_is_read_once_before_any_is_read_again():
    settings = PpoSettings(rollout_batch_size=8, mini_batch_size=4, ppo_epochs=2)
    term = PtxTerm([[1, 2]] * 10, PtxSettings(coef=1.0, examples_per_episode=1.5), PAD)
    updates = list(islice(texts_of_updates(term, settings, seed=1), 5))
    # 2 passes of 2 steps of 4 responses with 1.5 examples each: 24 an update, 120 in all
    assert {text.per_step for text in updates} == {6}
    rows = [row for text in updates for row in text.rows]
    assert all(
        Counter(rows[start : start + 10]) == Counter(range(10)) for start in range(0, 120, 10)
    )


QUICK = {"updates": 3, "learning_rate": 0.003, "ppo_epochs": 1}
TEXT = [[5, 6, 7, 8, 9, 10, 11, 1]] * 40


@pytest.mark.parametrize("value_network", ["separate", "shared_trunk"])
def test_what_is_read_beside_is_learnt_and_the_rest_is_ppo(value_network):
    ptx = PtxSettings(grad_norm_ratio=2.0)
    network = {"value_network": value_network}
    reports = history(tiny_ppo_models(), ptx=ptx, text=TEXT, **QUICK, **network)
    losses = [metrics["ptx_loss"] for metrics in reports]
    assert losses[-1] < losses[0] - 0.3
    assert all(metrics["ptx_coef"] > 0 for metrics in reports)
    # The first rollout was drawn before any text was read.
    (without,) = history(tiny_ppo_models(), **QUICK | {"updates": 1}, **network)
    assert "ptx_loss" not in without
    assert reports[0]["score"] == without["score"]


@pytest.mark.parametrize("given", [{}, {"coef": 1.0, "grad_norm_ratio": 1.0}])
def test_the_weight_of_text_is_said_in_exactly_one_way(given):
    with pytest.raises(ValueError, match="exactly one of `coef`"):
        PtxSettings(**given)
