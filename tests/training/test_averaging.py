"""The exponential average of the policy's weights over the optimizer's steps."""

import pytest
import torch
from torch.testing import assert_close

from rlhf_core.models import with_lora
from rlhf_core.scorers import Scorer
from rlhf_core.settings.base import LoraSettings
from rlhf_core.training.averaging import WeightAverage
from rlhf_core.training.trained import trained_tensors
from tests.tiny_models import tiny_policy, tiny_ppo_models
from tests.training.test_ppo import train


def test_the_average_follows_step_by_step_and_is_given_as_a_copy():
    policy = tiny_policy()
    average = WeightAverage(policy, 0.992)
    average.begin()
    first = policy.lm_head.weight.detach().clone()
    with torch.no_grad():
        policy.lm_head.weight += 1.0
    for _ in range(10):
        average.follow()
    copy = average.averaged()
    # 1 - 0.992^10 of the way; float32 weights below 1
    assert_close(copy.lm_head.weight - first, torch.full_like(first, 0.07718), atol=1e-5, rtol=0)
    assert_close(policy.lm_head.weight - first, torch.ones_like(first))


def test_an_average_that_a_checkpoint_brought_back_is_not_begun_anew():
    policy = tiny_policy()
    average = WeightAverage(policy, 0.5)
    average.tensors |= {name: tensor + 1 for name, tensor in trained_tensors(policy).items()}
    average.begin()
    assert_close(average.averaged().lm_head.weight, policy.lm_head.weight + 1)


def test_of_an_adapter_only_what_is_trained_is_averaged():
    policy = with_lora(tiny_policy(), LoraSettings(rank=2), task="CAUSAL_LM")
    average = WeightAverage(policy, 0.5)
    average.begin()
    assert all("lora" in name for name in average.tensors)


@pytest.mark.parametrize("changes", [{}, {"value_network": "shared_trunk"}])
def test_every_step_of_the_policy_is_followed(changes):
    models = tiny_ppo_models()
    start = models.policy.lm_head.weight.detach().clone()
    average = WeightAverage(models.policy, 0.75)
    one_step = {"updates": 1, "ppo_epochs": 1, "mini_batch_size": 32}
    train(models, average=average, ema_decay=0.75, **one_step, **changes)
    last = models.policy.lm_head.weight.detach()
    assert not torch.equal(start, last)
    expected = 0.75 * start + 0.25 * last
    assert_close(average.averaged().lm_head.weight.detach(), expected, atol=1e-6, rtol=0)


def test_a_step_of_the_value_model_alone_is_none_of_the_policy():
    models = tiny_ppo_models()
    average = WeightAverage(models.policy, 0.75)
    train(models, average=average, updates=2, value_warmup_updates=1, ppo_epochs=1)
    followed = average.averaged().lm_head.weight
    assert not torch.equal(followed, models.policy.lm_head.weight)


def test_where_the_guard_puts_good_weights_back_the_average_begins_there_anew(monkeypatch):
    models = tiny_ppo_models()
    average = WeightAverage(models.policy, 0.5)
    judge, alike = Scorer.judge, []

    def broken_three_times(self, *given, **settings):
        weight = models.policy.lm_head.weight.detach()
        alike.append(torch.equal(average.tensors["lm_head.weight"], weight))
        found = judge(self, *given, **settings)
        return found._replace(scores=found.scores * torch.nan) if len(alike) in (2, 3, 4) else found

    monkeypatch.setattr(Scorer, "judge", broken_three_times)
    train(models, average=average, updates=6)
    # It lags behind what moved in the first update, until the third bad rollout in a row.
    assert alike == [True, False, False, False, True, False]
