"""What PPO is compared with, RLOO and GRPO, and the value head on the policy's own trunk."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch.testing import assert_close

from rlhf_core.maths.logprobs import taken_logprobs
from rlhf_core.models import weights_digest
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.sharing import PolicyAndValue
from rlhf_core.training.guard import Guard
from rlhf_core.training.ppo_networks import make_networks
from rlhf_core.training.ppo_optimization import Optimization
from rlhf_core.training.rollouts import policy_distribution, values_before
from tests.tiny_models import SPECIAL, arranged, tiny_ppo_models
from tests.training.test_ppo import history, train
from tests.training.test_ppo_learning import NoReward, ShareOfOneToken, scorer
from tests.training.test_rollouts import PROMPTS, collect, moved

RLOO = {"algorithm": "rloo", "responses_per_prompt": 4}
GRPO = {"algorithm": "grpo", "responses_per_prompt": 4}
SHARED = {"value_network": "shared_trunk"}

close = {"atol": 1e-5, "rtol": 1e-5}  # float32 sums in another order


def groups_of(rollout, per_response):
    return per_response.reshape(-1, 4).double()


def of_every_token(rollout, per_response):
    tokens = per_response.reshape(-1, 1).expand_as(rollout.advantages)
    return tokens.masked_fill(~rollout.response_mask, 0.0).float()


@pytest.mark.parametrize("settings", [RLOO, GRPO])
def test_the_responses_to_one_prompt_are_neighbours_and_differ(settings):
    rollout = collect(tiny_ppo_models(), PROMPTS[:12], **settings)
    assert len(rollout) == 48
    for group in rollout.sequences.prompt_ids.split(4):
        assert (group == group[0]).all()
    distinct = [len(torch.unique(ids, dim=0)) for ids in rollout.sequences.response_ids.split(4)]
    assert max(distinct) == 4


def test_rloo_compares_score_and_kl_with_the_mean_of_the_others():
    rollout = collect(moved(), PROMPTS[:12], kl_coef=0.3, **RLOO)
    kl = (rollout.old_logprobs - rollout.ref_logprobs).masked_fill(~rollout.response_mask, 0.0)
    reward = groups_of(rollout, rollout.scores - 0.3 * kl.sum(dim=1))
    # R_i - (R_1 + .. + R_4 - R_i) / 3 = 4 / 3 (R_i - mean)
    expected = 4 / 3 * (reward - reward.mean(dim=1, keepdim=True))
    assert_close(rollout.advantages, of_every_token(rollout, expected), **close)


@pytest.mark.parametrize("divided", [True, False])
def test_grpo_compares_the_scores_alone_within_a_group(divided):
    rollout = collect(moved(), PROMPTS[:12], kl_coef=0.3, divide_by_group_deviation=divided, **GRPO)
    scores = groups_of(rollout, rollout.scores)
    expected = scores - scores.mean(dim=1, keepdim=True)
    if divided:
        expected = expected / (expected.square().sum(dim=1, keepdim=True) / 3).sqrt()
    assert_close(rollout.advantages, of_every_token(rollout, expected), **close)
    assert_close(rollout.rewards.sum(dim=1), rollout.scores, **close)


def test_grpo_has_the_kl_in_its_loss_as_k3():
    models = replace(moved(), scorer=scorer(NoReward()))
    # Equal scores: no response of a group is better than another, and the KL is all that is left.
    (first,) = history(
        models,
        updates=1,
        ppo_epochs=1,
        mini_batch_size=32,
        kl_coef=0.7,
        missing_eos_score=0.0,
        **GRPO,
    )
    per_token = first["kl_to_reference_k3"] / first["response_tokens"]
    assert_close(first["policy_loss"], 0.7 * per_token, rtol=1e-5, atol=0)
    assert first["policy_grad_norm"] > 0.01


def test_rloo_has_no_kl_in_its_loss():
    (first,) = history(
        replace(moved(), scorer=scorer(NoReward())),
        updates=1,
        ppo_epochs=1,
        mini_batch_size=32,
        kl_coef=0.0,
        missing_eos_score=0.0,
        **RLOO,
    )
    assert first["policy_loss"] == first["policy_grad_norm"] == 0.0


def test_reinforce_and_the_clipped_loss_take_the_same_first_step():
    def trained(surrogate, **changes):
        models = tiny_ppo_models()
        changes = {"updates": 1, "ppo_epochs": 1, "mini_batch_size": 32} | changes
        train(models, surrogate=surrogate, **RLOO, **changes)
        return torch.cat([weights.flatten() for weights in models.policy.parameters()])

    assert_close(trained("clipped"), trained("reinforce"), **close)
    apart = trained("clipped", ppo_epochs=4) - trained("reinforce", ppo_epochs=4)
    assert apart.abs().max() > 1e-3


@pytest.mark.parametrize("settings", [RLOO, GRPO, SHARED])
def test_each_solves_a_trivial_reward_as_ppo_does(settings):
    models = replace(tiny_ppo_models(layers=1), scorer=scorer(ShareOfOneToken()))
    reports = history(
        models,
        updates=25,
        kl_coef=0.02,
        rollout_batch_size=64,
        mini_batch_size=32,
        learning_rate=0.01,
        value_clip_range=5.0 if settings is SHARED else 0.2,
        **settings,
    )
    assert reports[0]["score"] < 0.3
    assert reports[-1]["score"] > 1.5
    assert reports[-1]["ended_share"] > 0.9


@pytest.mark.parametrize("settings", [RLOO, GRPO])
def test_only_the_policy_is_trained_and_nothing_is_said_of_a_value_model(settings):
    models = tiny_ppo_models()
    frozen = weights_digest(models.reference), weights_digest(models.scorer)
    before = weights_digest(models.policy)
    (first,) = history(models, updates=1, **settings)
    assert (weights_digest(models.reference), weights_digest(models.scorer)) == frozen
    assert weights_digest(models.policy) != before
    assert not [name for name in first if "value" in name or name == "explained_variance"]


@pytest.mark.parametrize("settings", [RLOO, GRPO, SHARED])
def test_the_sentinel_has_nothing_to_say_of_a_healthy_run(settings):
    models = replace(tiny_ppo_models(layers=1), scorer=scorer(ShareOfOneToken()))
    told = []
    summary = train(
        models,
        updates=6,
        rollout_batch_size=64,
        learning_rate=0.001,
        report=lambda update, metrics: told.append(update),
        **settings,
    )
    assert told == [1, 2, 3, 4, 5, 6]
    assert not {"warned_broken_rules", "warned_leaked_values", "skipped_steps"} & summary.keys()


def shared_models(**changes):
    return arranged(tiny_ppo_models(**changes), PpoSettings(**SHARED))


def test_a_value_head_on_the_trunk_starts_at_0_and_adds_one_layer_to_the_policy():
    models = shared_models()
    own = {id(weights) for weights in models.policy.parameters()}
    added = [
        name for name, weights in models.value_model.named_parameters() if id(weights) not in own
    ]
    assert added == ["model.score.weight", "model.score.bias"]
    rollout = collect(models, value_network="shared_trunk")
    assert not rollout.old_values.any()
    assert rollout.rewards.any()


def test_one_pass_of_the_trunk_gives_the_gradient_of_both_losses():
    settings = PpoSettings(
        rollout_batch_size=16, mini_batch_size=16, max_grad_norm=1e9, value_coef=0.5, **SHARED
    )
    models = shared_models()
    torch.nn.init.normal_(models.value_model.head.weight)
    rollout = collect(models, PROMPTS[:16], **SHARED)
    networks = make_networks(Accelerator(), models, settings)
    optimization = Optimization(
        networks,
        rollout,
        settings,
        SPECIAL,
        Accelerator(),
        0,
        0.05,
        Guard("ppo", settings.sentinel, {}),
        range(16),
    )
    both = networks.policy.bare
    assert isinstance(both, PolicyAndValue)
    part = optimization._joint_part(rollout.advantages, torch.arange(16))
    joint = torch.autograd.grad(part.loss, list(both.parameters()))

    batch, mask = rollout.sequences, rollout.response_mask
    log_probs = policy_distribution(models.policy, batch, settings, SPECIAL)
    ratio = (taken_logprobs(log_probs, batch.response_ids) - rollout.old_logprobs).exp()
    values = values_before(models.value_model, batch)
    # Nothing has moved: the clipped terms are the others.
    policy_loss = -(ratio * rollout.advantages)[mask].mean()
    value_loss = 0.5 * (values - rollout.returns)[mask].square().mean()
    apart = torch.autograd.grad(policy_loss + 0.5 * value_loss, list(both.parameters()))
    for (name, _), one, two in zip(both.named_parameters(), joint, apart, strict=True):
        assert_close(one, two, atol=1e-5, rtol=1e-4, msg=name)


def test_micro_batches_do_not_change_the_gradient_of_a_shared_trunk():
    def gradients(size):
        models = tiny_ppo_models()
        changes = {"updates": 1, "ppo_epochs": 1, "mini_batch_size": 32, "max_grad_norm": 1e9}
        train(models, micro_batch_size=size, **SHARED, **changes)
        return [weights.grad for weights in models.policy.parameters()]

    for one, two in zip(gradients(None), gradients(5), strict=True):
        assert_close(one, two, atol=1e-5, rtol=1e-4)


def test_the_policys_gradient_reaches_the_trunk_from_the_values_too():
    def trunk(value_coef):
        models = tiny_ppo_models()
        train(models, updates=1, value_coef=value_coef, **SHARED)
        return models.policy.model.layers[0].mlp.up_proj.weight

    assert not torch.equal(trunk(0.1), trunk(10.0))
