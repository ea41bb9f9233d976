"""What PPO learns on rewards whose best answer is known, and what it must leave alone."""

from dataclasses import replace

import torch
from torch import nn
from torch.testing import assert_close

from rlhf_core.reward_models import RewardModel
from rlhf_core.scorers import Scorer
from tests.tiny_models import tiny_policy, tiny_ppo_models
from tests.training.test_ppo import history

WANTED = 6


class ShareOfOneToken(nn.Module):
    """A reward without weights: the share of one token in the response, times 3."""

    def forward(self, input_ids, attention_mask):
        responses = attention_mask.cumsum(dim=1) - 2  # both tokens of the prompt are left out
        hits = ((input_ids == WANTED) & (responses > 0)).cumsum(dim=1)
        return 3 * hits / responses.clamp(min=1)


LEARNS = {
    "rollout_batch_size": 64,
    "mini_batch_size": 32,
    "learning_rate": 0.01,
    "value_learning_rate": 0.003,
    "value_clip_range": 5.0,
}


def scorer(numbers: nn.Module) -> Scorer:
    """Reads the numbers at the end token, as it would those of a reward model."""
    return Scorer(RewardModel([numbers]))


class NoReward(nn.Module):
    def forward(self, input_ids, attention_mask):
        return torch.zeros(input_ids.shape)


def test_it_solves_a_trivial_reward_while_the_kl_rises():
    models = replace(tiny_ppo_models(layers=1), scorer=scorer(ShareOfOneToken()))
    reports = history(models, updates=25, kl_coef=0.02, **LEARNS)

    assert reports[0]["score"] < 0.3
    assert reports[-1]["score"] > 1.8  # of 3 at most, which no response with an end can have
    assert reports[0]["kl_to_reference"] == 0.0
    assert reports[-1]["kl_to_reference"] > 10
    assert reports[-1]["ended_share"] > 0.9


def test_a_huge_kl_penalty_keeps_the_policy_at_the_reference():
    models = replace(tiny_ppo_models(layers=1), scorer=scorer(ShareOfOneToken()))
    reports = history(models, updates=15, kl_coef=10.0, **LEARNS | {"learning_rate": 0.001})
    # Whitened noise moves a policy by up to 0.7 nats (section 3.12), whatever the penalty.
    assert max(abs(metrics["kl_to_reference"]) for metrics in reports) < 1.0
    assert reports[-1]["kl_to_reference"] < 0.5
    assert reports[-1]["score"] < 0.3


def test_without_reward_the_policy_stays_where_it_is():
    models = replace(tiny_ppo_models(layers=1), scorer=scorer(NoReward()))
    reports = history(
        models,
        updates=25,
        missing_eos_score=0.0,
        learning_rate=3e-4,
        rollout_batch_size=64,
        mini_batch_size=64,
        ppo_epochs=2,
    )
    distances = [metrics["kl_to_reference"] for metrics in reports]
    assert min(distances) > -0.2  # the bands of invariant 25
    assert max(distances) < 1.5
    # The entropy per token of 64 responses is known to a few per cent.
    assert_close(reports[-1]["entropy"], reports[0]["entropy"], rtol=0.1, atol=0)


def test_the_penalty_is_on_the_distance_to_the_reference_not_to_the_policy_before():
    models = replace(
        tiny_ppo_models(reference=tiny_policy(seed=9), layers=1), scorer=scorer(NoReward())
    )
    reports = history(models, updates=15, kl_coef=1.0, missing_eos_score=0.0)
    distances = [metrics["kl_to_reference"] for metrics in reports]
    assert distances[0] > 3  # another model
    # A penalty on the step of one update alone would leave the policy where it began.
    assert distances[-1] < 0.7 * distances[0]


def test_the_value_model_learns_what_to_expect():
    models = replace(tiny_ppo_models(layers=1), scorer=scorer(ShareOfOneToken()))
    alone = {"value_warmup_updates": 14, "learning_rate_schedule": "constant"}
    reports = history(models, updates=15, **LEARNS | alone)
    assert reports[0]["explained_variance"] < 0  # a random value model is worse than none
    assert reports[-1]["explained_variance"] > 0.25 * reports[0]["explained_variance"]
    assert reports[-1]["value_loss"] < 0.25 * reports[0]["value_loss"]
