"""The sentinel in the real PPO loop: what each planted fault comes to."""

import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from rlhf_core.errors import TrainingStopped
from rlhf_core.maths.ngrams import unique_ngram_share
from rlhf_core.models import frozen_copy, weights_digest
from rlhf_core.report import ignore
from rlhf_core.scorers import Scorer
from rlhf_core.sentinel.alarms import AFTER_STEPS, BEFORE_STEPS
from rlhf_core.sentinel.causes import CAUSES
from rlhf_core.sentinel.signatures import SIGNATURES
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.settings.sentinel import Limits, PpoSentinelSettings
from rlhf_core.training import estimates, ppo
from rlhf_core.training.ppo import train_ppo
from rlhf_core.training.ppo_optimization import ratio_metrics
from tests.tiny_models import SPECIAL, tiny_ppo_models

PROMPTS = [[3 + i % 9, 4 + i % 8] for i in range(48)]
ALARMS = [alarm.name for alarm in (*BEFORE_STEPS, *AFTER_STEPS)]


def train(models, *, on, report=ignore, **changes):
    """Train with the alarms in `on` alone: these models of random weights move fast."""
    quiet = {name: None for name in ALARMS if name not in on}
    settings = PpoSettings(
        **{
            "updates": 6,
            "rollout_batch_size": 32,
            "mini_batch_size": 16,
            "learning_rate": 1e-4,
            "warmup_updates": 0,
            "sentinel": PpoSentinelSettings(**quiet | (on if isinstance(on, dict) else {})),
        }
        | changes
    )
    return train_ppo(
        models,
        PROMPTS,
        settings,
        report,
        special=SPECIAL,
        max_response_tokens=8,
        missing_eos_score=-1.0,
        seed=1,
        accelerator=Accelerator(),
    )


def stopped(models, cause, **arguments):
    with pytest.raises(TrainingStopped) as error:
        train(models, **arguments)
    found = error.value.diagnosis
    assert found["cause"] == cause, found["verdict"]
    assert CAUSES[cause].mend in str(error.value)
    return found


def with_scores(monkeypatch, scores_of):
    """Every rollout is paid what `scores_of` says of it."""
    right = Scorer.judge

    def judge(scorer, sequences, **keywords):
        judgement = right(scorer, sequences, **keywords)
        return judgement._replace(scores=scores_of(judgement.scores, sequences))

    monkeypatch.setattr(Scorer, "judge", judge)


def test_every_cause_that_a_signature_points_to_is_in_the_table():
    assert {signature.cause for signature in SIGNATURES} <= CAUSES.keys()
    assert {alarm.name for alarm in (*BEFORE_STEPS, *AFTER_STEPS)} <= set(
        PpoSentinelSettings.model_fields
    )


def test_a_limit_given_in_part_keeps_the_rest():
    settings = PpoSentinelSettings.model_validate({"clip_fraction": {"warn": 0.3}})
    assert settings.clip_fraction == Limits(warn=0.3, stop=0.4, in_a_row=3)
    assert PpoSentinelSettings.model_validate({"clip_fraction": None}).clip_fraction is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_skipped_then_returned_from_then_stop(monkeypatch, value):
    with_scores(monkeypatch, lambda scores, _: scores * value)
    models, reports = tiny_ppo_models(), []
    before = weights_digest(models.policy)
    found = stopped(models, "bad_reward", on=(), report=lambda step, _: reports.append(step))
    assert reports == [1, 2, 3, 4, 5, 6]
    assert found["first_bad_tensor"] == "the scores"
    assert [batch["step"] for batch in found["bad_batches"]] == [1, 2, 3, 4, 5, 6]
    assert weights_digest(models.policy) == before


def test_one_rollout_of_bad_scores_is_left_out_and_counted(monkeypatch):
    calls = []

    def spoilt_once(scores, _):
        calls.append(1)
        return scores * math.nan if len(calls) == 3 else scores

    with_scores(monkeypatch, spoilt_once)
    digests = []
    models = tiny_ppo_models()
    last = train(
        models, on=(), report=lambda step, _: digests.append(weights_digest(models.policy))
    )
    assert digests[2] == digests[1]
    assert len(set(digests)) == 5
    assert last["skipped_steps"] == 1
    assert math.isfinite(last["score"])


def test_huge_scores_stop_training(monkeypatch):
    with_scores(monkeypatch, lambda scores, _: scores * 1e30)
    stopped(tiny_ppo_models(), "scores_extreme", on=["largest_score"])


def test_equal_scores_give_advantages_without_nan_and_stop_only_when_they_stay(monkeypatch):
    with_scores(monkeypatch, lambda scores, _: torch.zeros_like(scores))
    found = stopped(tiny_ppo_models(), "read_out", on=["constant_scores"])
    assert found["step"] == 3
    assert all(math.isfinite(float(step["policy_loss"])) for step in found["last_steps"])


def test_a_kl_that_explodes_stops_before_the_twentieth_update_with_the_good_policy_in_place():
    models = tiny_ppo_models()
    before = weights_digest(models.policy)
    found = stopped(
        models,
        "learning_rate_high",
        on=["kl_to_reference"],
        kl_coef=0.0,
        learning_rate=0.1,
        updates=20,
    )
    assert found["step"] <= 20
    assert found["last_good_step"] == 0
    assert weights_digest(models.policy) == before


def test_one_response_to_everything_is_seen(monkeypatch):
    models = tiny_ppo_models()
    right = ppo.collect_rollout
    calls = []

    def collapsed(*arguments, **keywords):
        rollout = right(*arguments, **keywords)
        calls.append(1)
        if len(calls) == 1:
            return rollout
        first = torch.zeros(len(rollout), dtype=torch.long)
        rows = {name: of[first] for name, of in vars(rollout).items() if torch.is_tensor(of)}
        sequences = {name: of[first] for name, of in vars(rollout.sequences).items()}
        return replace(rollout, **rows, sequences=replace(rollout.sequences, **sequences))

    monkeypatch.setattr(ppo, "collect_rollout", collapsed)
    stopped(models, "collapse", on=["distinct_share"], updates=4)


def test_empty_responses_alone_are_counted_and_stop(monkeypatch):
    models = tiny_ppo_models()
    for policy in (models.policy, models.reference):
        policy.lm_head.register_forward_hook(
            lambda module, inputs, logits: logits.index_fill(-1, torch.tensor([SPECIAL.end[0]]), 50)
        )
    found = stopped(models, "empty_liked", on=["empty_share"])
    assert found["signals"]["empty_share"] == 1.0
    assert found["step"] == 2


def test_responses_that_never_end_get_the_low_score_and_are_told(monkeypatch):
    right = ppo.collect_rollout
    calls = []

    def endless(*arguments, **keywords):
        rollout = right(*arguments, **keywords)
        calls.append(1)
        ended = rollout.ended if len(calls) == 1 else torch.zeros_like(rollout.ended)
        return replace(rollout, ended=ended)

    monkeypatch.setattr(ppo, "collect_rollout", endless)
    found = stopped(
        tiny_ppo_models(), "length_biased", on={"ended_fall": {"stop": 0.2, "in_a_row": 3}}
    )
    assert found["signals"]["ended_share"] == 0.0


def test_a_ratio_that_overflows_is_bounded():
    found = ratio_metrics(torch.tensor([100.0, -100.0, 0.0]))
    assert all(math.isfinite(value) for value in found.values())
    assert found["largest_ratio"] == pytest.approx(math.exp(20), rel=1e-6)


@pytest.mark.parametrize(
    "cause, wrong",
    [
        ("kl_sign", lambda right, s, kl, mask, coef: right(s, kl, mask, kl_coef=-coef)),
        ("kl_missing", lambda right, s, kl, mask, coef: right(s, kl, mask, kl_coef=0.0)),
        (
            "score_on_every_token",
            lambda right, s, kl, mask, coef: (s.unsqueeze(1) - coef * kl).masked_fill(~mask, 0.0),
        ),
        (
            "rewards_shifted",
            lambda right, s, kl, mask, coef: right(s, kl, mask, kl_coef=coef) + 0.3 * mask,
        ),
    ],
)
def test_rewards_that_sum_to_something_else_name_what_they_sum_to(monkeypatch, cause, wrong):
    right = estimates.shape_rewards

    def shape(scores, kl, mask, *, kl_coef):
        return wrong(right, scores, kl, mask, kl_coef)

    monkeypatch.setattr(estimates, "shape_rewards", shape)
    stopped(tiny_ppo_models(), cause, on=["broken_rules"], learning_rate=0.003, kl_coef=1.0)


def test_a_reference_that_moves_with_the_policy_is_seen(monkeypatch):
    right = ppo.collect_rollout

    def collect(models, *arguments, **keywords):
        moving = replace(models, reference=frozen_copy(models.policy))
        return right(moving, *arguments, **keywords)

    monkeypatch.setattr(ppo, "collect_rollout", collect)
    stopped(tiny_ppo_models(), "reference_moves", on=["broken_rules"], learning_rate=0.003)


def test_a_seed_that_comes_back_is_seen(monkeypatch):
    monkeypatch.setattr(ppo, "_seed", lambda *_: 7)
    found = stopped(tiny_ppo_models(), "one_seed", on=["broken_rules"])
    assert found["step"] == 2


def test_dropout_is_seen_though_it_came_on_after_the_start():
    models = tiny_ppo_models()
    models.policy.model.layers[1].self_attn.attention_dropout = 0.1
    stopped(models, "dropout", on=["sampler_gap", "first_ratio_error"])


def test_an_alarm_that_warns_is_told_once_and_counted_every_time():
    last = train(tiny_ppo_models(), on={"approx_kl": {"warn": 1e-12, "stop": None}})
    assert last["warned_approx_kl"] == 6


# Of 1 2 1 2 1 the pairs are 12 21 12 21: two of four are new.
def test_repeated_pairs_of_tokens_are_counted_within_the_mask():
    ids = torch.tensor([[1, 2, 1, 2, 1], [1, 2, 3, 4, 5], [1, 2, 1, 2, 9]])
    mask = torch.tensor([[True] * 5, [True] * 5, [True, True, False, False, False]])
    assert unique_ngram_share(ids, mask, 2).tolist() == [0.5, 1.0, 1.0]
