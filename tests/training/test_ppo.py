from collections import Counter
from itertools import islice

import pytest
import torch
from accelerate import Accelerator
from torch.testing import assert_close

from rlhf_core.errors import TrainingStopped, UserError
from rlhf_core.models import weights_digest
from rlhf_core.report import ignore
from rlhf_core.sentinel.alarms import AFTER_STEPS, BEFORE_STEPS
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.settings.sentinel import PpoSentinelSettings
from rlhf_core.training import ppo
from rlhf_core.training.ppo import (
    check_shares,
    learning_rate_share,
    prompt_batches,
    train_ppo,
)
from tests.tiny_models import SPECIAL, arranged, tiny_policy, tiny_ppo_models

QUIET = PpoSentinelSettings(**{alarm.name: None for alarm in (*BEFORE_STEPS, *AFTER_STEPS)})
"""No alarm stops what is done here to models of random weights at a high learning rate."""

PROMPTS = [[3 + i % 9, 4 + i % 8] for i in range(48)]


def train(
    models, *, report=ignore, seed=1, missing_eos_score=-1.0, average=None, text=(), **changes
):
    settings = PpoSettings(
        **{
            "updates": 2,
            "rollout_batch_size": 32,
            "mini_batch_size": 16,
            "learning_rate": 0.003,
            "warmup_updates": 0,
            "adam_epsilon": 1e-8,
            "sentinel": QUIET,
        }
        | changes
    )
    return train_ppo(
        arranged(models, settings),
        PROMPTS,
        settings,
        report,
        special=SPECIAL,
        max_response_tokens=8,
        missing_eos_score=missing_eos_score,
        seed=seed,
        accelerator=Accelerator(),
        average=average,
        text=text,
    )


def history(models, **changes):
    reports = []
    train(models, report=lambda update, metrics: reports.append((update, metrics)), **changes)
    assert [update for update, _ in reports] == list(range(1, len(reports) + 1))
    return [metrics for _, metrics in reports]


@pytest.mark.parametrize("whiten_advantages", ["rollout", "mini_batch"])
def test_in_the_first_mini_batch_nothing_has_moved(whiten_advantages):
    (first,) = history(
        tiny_ppo_models(),
        updates=1,
        ppo_epochs=1,
        mini_batch_size=32,
        whiten_advantages=whiten_advantages,
    )
    assert first["kl_to_reference"] == 0.0
    assert first["first_ratio_error"] < 1e-6  # float32; the rollout was passed in other batches
    assert first["approx_kl"] < 1e-6
    assert first["clip_fraction"] == 0.0
    assert abs(first["policy_loss"]) < 1e-5  # the mean of whitened advantages, invariant 11


@pytest.mark.parametrize("clip_range, clipped", [(1e-4, True), (1e3, False)])
def test_a_token_is_clipped_by_the_range_of_the_settings(clip_range, clipped):
    (first,) = history(tiny_ppo_models(), updates=1, clip_range=clip_range)
    # Nearly every token has moved by more than 1e-4 after a step, half of them the good way.
    assert (first["clip_fraction"] > 0.2) == clipped
    assert (first["clip_fraction"] == 0) == (not clipped)


@pytest.mark.parametrize("value_clip_range, clipped", [(1e-4, True), (1e3, False)])
def test_a_value_is_clipped_by_the_range_of_the_settings(value_clip_range, clipped):
    (first,) = history(tiny_ppo_models(), updates=1, value_clip_range=value_clip_range)
    assert (first["value_clip_fraction"] > 0.2) == clipped
    assert (first["value_clip_fraction"] == 0) == (not clipped)


def test_in_later_mini_batches_the_policy_has_moved():
    (first,) = history(tiny_ppo_models(), updates=1)
    assert first["approx_kl"] > 1e-4
    assert first["first_ratio_error"] < 1e-6


def gradients_of(micro_batch_size, **changes):
    models = tiny_ppo_models()
    whole = {"updates": 1, "ppo_epochs": 1, "mini_batch_size": 32, "max_grad_norm": 1e9}
    train(models, micro_batch_size=micro_batch_size, **whole | changes)
    return {
        (part, name): parameter.grad
        for part in ("policy", "value_model")
        for name, parameter in getattr(models, part).named_parameters()
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"score_at": "eos"},
        {"score_at": "after_eos"},
        {"loss_reduction": "sequence_mean"},
        {"loss_reduction": "sequence_sum"},
    ],
    ids=str,
)
def test_micro_batches_do_not_change_the_gradient(changes):
    whole = gradients_of(None, **changes)
    for size in (1, 5):
        for name, gradient in gradients_of(size, **changes).items():
            # float32 sums in another order, of gradients up to about 1 (a sum over 8 tokens: 8)
            assert_close(gradient, whole[name], atol=1e-5, rtol=1e-4, msg=str(name))


def test_micro_batches_are_part_of_a_mean_over_them():
    whole = gradients_of(None, loss_reduction="micro_batch_mean")
    parts = gradients_of(5, loss_reduction="micro_batch_mean")
    error = max(float((parts[name] - whole[name]).abs().max()) for name in whole)
    assert error > 1e-3


def rollouts_of(monkeypatch, models, **changes):
    seen, right = [], ppo.collect_rollout

    def collect(*args, **others):
        seen.append(right(*args, **others))
        return seen[-1]

    monkeypatch.setattr(ppo, "collect_rollout", collect)
    train(models, **changes)
    return seen


def test_every_update_draws_responses_of_its_own(monkeypatch):
    # A learning rate too small to move anything: only the draws differ.
    still = {"learning_rate": 1e-30, "updates": 4, "rollout_batch_size": 48, "mini_batch_size": 48}
    seen = rollouts_of(monkeypatch, tiny_ppo_models(), **still)
    by_prompt = []
    for rollout in seen:
        rows = zip(
            rollout.sequences.prompt_ids.tolist(),
            rollout.sequences.response_ids.tolist(),
            strict=True,
        )
        by_prompt.append({tuple(prompt): tuple(response) for prompt, response in rows})
    assert all(prompts.keys() == by_prompt[0].keys() for prompts in by_prompt)
    assert len({tuple(sorted(prompts.items())) for prompts in by_prompt}) == 4


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_rewards_of_a_response_are_its_score_less_the_estimate_of_the_settings(
    monkeypatch, estimator
):
    models = tiny_ppo_models(reference=tiny_policy(seed=9))
    (rollout,) = rollouts_of(monkeypatch, models, updates=1, kl_coef=0.3, kl_estimator=estimator)
    gap = (rollout.old_logprobs - rollout.ref_logprobs).masked_fill(~rollout.response_mask, 0.0)
    kl = {"k1": gap, "k2": gap**2 / 2, "k3": torch.exp(-gap) - 1 + gap}[estimator]
    # float32 sums of up to 8 tokens
    assert_close(rollout.rewards.sum(1), rollout.scores - 0.3 * kl.sum(1), atol=1e-4, rtol=1e-5)


def test_every_rollout_is_scaled_by_the_scores_of_all_until_then(monkeypatch):
    seen = rollouts_of(monkeypatch, tiny_ppo_models(), updates=3, scale_scores=True)
    raw = [rollout.raw_scores[rollout.ended] for rollout in seen]
    for update, rollout in enumerate(seen):
        deviation = torch.cat(raw[: update + 1]).std(correction=0)
        assert_close(rollout.scores[rollout.ended], raw[update] / deviation)


def test_the_epsilon_of_tensorflow_makes_the_first_steps_smaller():
    def moved(style):
        models = tiny_ppo_models()
        before = models.policy.lm_head.weight.clone()
        train(models, updates=1, ppo_epochs=1, adam_epsilon=1e-3, adam_epsilon_style=style)
        return float((models.policy.lm_head.weight - before).detach().norm())

    # 0.1 / sqrt(1 - 0.95): 4.5 times the epsilon at the first step, 3.2 times at the second
    assert moved("tensorflow") < 0.9 * moved("torch")


def test_the_low_score_of_a_missing_end_reaches_the_rollout(monkeypatch):
    (rollout,) = rollouts_of(monkeypatch, tiny_ppo_models(), updates=1, missing_eos_score=-7.5)
    assert rollout.scores[~rollout.ended].unique().tolist() == [-7.5]


def test_training_stops_once_the_policy_is_too_far_from_the_reference():
    models = tiny_ppo_models(reference=tiny_policy(seed=9))
    before = weights_digest(models.policy)
    limits = {"kl_to_reference": {"stop": 2.0}}
    with pytest.raises(TrainingStopped, match=r"PPO stopped at update 1: .*\(limit 1\)"):
        train(models, sentinel=limits)
    assert weights_digest(models.policy) == before


def test_a_reward_that_is_no_number_stops_training_before_a_step():
    models = tiny_ppo_models()
    with torch.no_grad():
        models.scorer.reward_model.first.head.bias.fill_(torch.nan)
    before = weights_digest(models.policy), weights_digest(models.value_model)
    with pytest.raises(
        TrainingStopped, match="every step was skipped, the scores being not finite"
    ):
        train(models)
    assert (weights_digest(models.policy), weights_digest(models.value_model)) == before


def test_only_policy_and_value_model_are_trained():
    models = tiny_ppo_models()
    parts = ("policy", "reference", "scorer", "value_model")
    before = [weights_digest(getattr(models, part)) for part in parts]
    train(models)
    after = [weights_digest(getattr(models, part)) for part in parts]
    assert [a == b for a, b in zip(after, before, strict=True)] == [False, True, True, False]


def test_the_same_seed_gives_the_same_weights_twice():
    def digests(seed):
        models = tiny_ppo_models()
        train(models, seed=seed)
        return weights_digest(models.policy), weights_digest(models.value_model)

    assert digests(1) == digests(1)
    assert digests(1) != digests(2)


def test_the_value_model_is_trained_alone_over_its_warm_up():
    models = tiny_ppo_models()
    policy, value_model = weights_digest(models.policy), weights_digest(models.value_model)
    digests = []
    train(
        models,
        updates=3,
        value_warmup_updates=2,
        report=lambda update, metrics: digests.append(weights_digest(models.policy)),
    )
    assert digests[:2] == [policy, policy]
    assert digests[2] != policy
    assert weights_digest(models.value_model) != value_model


def test_an_update_ends_early_once_the_policy_has_moved_enough():
    (free,) = history(tiny_ppo_models(), updates=1, ppo_epochs=8)
    (bound,) = history(tiny_ppo_models(), updates=1, ppo_epochs=8, max_approx_kl=1e-6)
    (one_pass,) = history(tiny_ppo_models(), updates=1, ppo_epochs=1)
    assert bound["approx_kl"] == one_pass["approx_kl"] < free["approx_kl"]


def test_the_kl_coefficient_follows_the_distance():
    reports = history(tiny_ppo_models(), updates=3, kl_coef=0.1, kl_target=6.0, kl_horizon=64)
    # At distances far below 6 it falls by 20 % of 32 episodes in 64 each time: by a tenth.
    assert_close([m["kl_coef"] for m in reports], [0.1, 0.09, 0.081], rtol=1e-9, atol=0)


def test_the_rate_warms_up_and_falls_to_zero():
    settings = PpoSettings(updates=10, warmup_updates=3)
    shares = [learning_rate_share(update, settings) for update in range(10)]
    # .1, .4, .7, then 1, each times 1 - update / 10
    expected = [0.1, 0.36, 0.56, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert_close(shares, expected, rtol=1e-9, atol=0)
    constant = PpoSettings(updates=10, warmup_updates=0, learning_rate_schedule="constant")
    assert learning_rate_share(9, constant) == 1.0
    cosine = PpoSettings(updates=5, warmup_updates=0, learning_rate_schedule="cosine")
    shares = [learning_rate_share(update, cosine) for update in range(5)]
    assert_close(shares, [1.0, 0.8682, 0.55, 0.2318, 0.1], atol=5e-5, rtol=0)


def test_each_pass_covers_every_prompt_once_in_an_order_of_its_own():
    batches = list(islice(prompt_batches(10, 4, seed=1), 15))
    rows = [row for batch in batches for row in batch]
    assert all(len(batch) == 4 for batch in batches)
    passes = [rows[start : start + 10] for start in range(0, 60, 10)]
    assert all(Counter(one) == Counter(range(10)) for one in passes)
    assert len({tuple(one) for one in passes}) == 6
    assert rows == [row for batch in islice(prompt_batches(10, 4, seed=1), 15) for row in batch]


def test_a_rollout_larger_than_the_prompts_takes_each_as_often():
    (batch,) = islice(prompt_batches(3, 9, seed=1), 1)
    assert Counter(batch) == {0: 3, 1: 3, 2: 3}


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"rollout_batch_size": 30, "mini_batch_size": 15}, r"ppo\.rollout_batch_size.* = 30"),
        ({"rollout_batch_size": 24, "mini_batch_size": 6}, r"ppo\.mini_batch_size = 6"),
    ],
)
def test_processes_that_cannot_share_evenly_are_refused_before_anything_is_loaded(changes, named):
    settings = PpoSettings(**changes)
    check_shares(settings, 3)
    with pytest.raises(UserError, match=f"4 processes cannot share .*{named}"):
        check_shares(settings, 4)
