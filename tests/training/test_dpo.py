from functools import partial

import pytest
import torch
from accelerate import Accelerator
from torch.testing import assert_close

from rlhf_core.errors import DataError, TrainingStopped
from rlhf_core.models import weights_digest
from rlhf_core.report import ignore
from rlhf_core.settings.algorithms import DpoSettings
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.training.dpo import Preferences, measuring_steps, train_dpo
from rlhf_core.training.likelihoods import with_reference
from rlhf_core.training.ranked import Rankings
from rlhf_core.training.rollouts import collect_rollout
from tests.tiny_models import END, PAD, SPECIAL, arranged, tiny_policy, tiny_ppo_models

PROMPTS = [[3 + i % 9, 4 + i % 8] for i in range(48)]
LIKES_SIX = Rankings(
    PROMPTS,
    [[[6, 6, END], [7, 8, 9, END], [5, 6, END]] for _ in PROMPTS],
    [[1, 3, 2] if i % 2 else [1, 2, 2] for i, _ in enumerate(PROMPTS)],
)


def settings_of(**changes):
    return PpoSettings(
        **{
            "algorithm": "dpo",
            "rollout_batch_size": 32,
            "mini_batch_size": 16,
            "learning_rate": 0.003,
            "warmup_updates": 0,
            "kl_coef": 0.1,
            "sentinel": {"kl_to_reference": None},
            "dpo": DpoSettings(batch_size=16),
        }
        | changes
    )


def train(models, *, rankings=LIKES_SIX, report=ignore, **changes):
    settings = settings_of(**changes)
    accelerator = Accelerator()
    models = arranged(models, settings)
    likelihoods = with_reference(rankings, models.reference, settings, SPECIAL)
    roll = partial(
        collect_rollout,
        models,
        settings=settings,
        special=SPECIAL,
        max_response_tokens=8,
        kl_coef=settings.kl_coef,
        missing_eos_score=-1.0,
        accelerator=accelerator,
    )
    return train_dpo(
        models,
        Preferences(likelihoods, likelihoods),
        settings,
        report,
        prompts=PROMPTS,
        roll=roll,
        seed=1,
        accelerator=accelerator,
    )


def history(models, **changes):
    reports = []
    train(models, report=lambda step, metrics: reports.append(dict(metrics)), **changes)
    return reports


def logprobs_by_hand(policy, prompt, response):
    with torch.no_grad():
        logits = policy(input_ids=torch.tensor([prompt + response])).logits[0]
    logits[:, PAD] = -torch.inf
    rows = logits.log_softmax(dim=-1)[len(prompt) - 1 : -1]
    return rows.gather(1, torch.tensor(response).unsqueeze(1)).sum()


def test_the_references_log_probabilities_are_those_of_each_row_alone():
    models = tiny_ppo_models()
    likelihoods = with_reference(LIKES_SIX, models.reference, settings_of(), SPECIAL)
    for row in (0, 1, 17, 47):
        expected = [
            logprobs_by_hand(models.reference, PROMPTS[row], response)
            for response in LIKES_SIX.responses[row]
        ]
        assert_close(likelihoods.ref_logprobs[row], torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_the_loss_of_a_policy_that_moved_is_that_of_its_distances():
    models = tiny_ppo_models(reference=tiny_policy(seed=4))
    likelihoods = with_reference(LIKES_SIX, models.reference, settings_of(), SPECIAL)
    part = likelihoods.part(models.policy, [0, 1])
    losses = []
    for row, pairs in ((0, [(0, 1), (0, 2)]), (1, [(0, 1), (0, 2), (2, 1)])):
        rewards = [
            0.1
            * (
                logprobs_by_hand(models.policy, PROMPTS[row], response)
                - logprobs_by_hand(models.reference, PROMPTS[row], response)
            )
            for response in LIKES_SIX.responses[row]
        ]
        leads = torch.stack([rewards[better] - rewards[worse] for better, worse in pairs])
        losses.append((1 + (-leads).exp()).log().mean())
    assert_close(part.loss, torch.stack(losses).mean(), atol=1e-5, rtol=1e-5)
    assert part.weight == 2


def test_a_policy_that_is_the_reference_starts_without_an_opinion():
    (first, *_) = history(tiny_ppo_models())
    assert_close(first["policy_loss"], 0.6931472, atol=1e-5, rtol=0)
    assert_close(first["implicit_margin"], 0.0, atol=1e-5, rtol=0)


def test_it_learns_to_prefer_and_to_write_what_was_preferred():
    models = tiny_ppo_models(layers=1)
    reports = history(models, dpo=DpoSettings(batch_size=16, epochs=8), learning_rate=0.01)
    last = reports[-1]
    assert last["validation_implicit_accuracy"] > 0.95
    assert last["implicit_margin"] > 1.0
    assert last["kl_to_reference"] > 1.0
    six, others = (
        logprobs_by_hand(models.policy, PROMPTS[0], [first, first, END]) for first in (6, 7)
    )
    assert six > others


def test_more_weight_of_the_kl_keeps_the_policy_nearer():
    def distance(kl_coef):
        # Labels that may be swapped ask for a lead of log(0.7 / 0.3) in reward, and no more.
        dpo = DpoSettings(batch_size=16, epochs=8, label_smoothing=0.3)
        models = tiny_ppo_models(layers=1)
        return history(models, dpo=dpo, learning_rate=0.01, kl_coef=kl_coef)[-1]["kl_to_reference"]

    assert distance(1.0) < 0.5 * distance(0.05)


def test_micro_batches_do_not_change_the_gradient():
    def gradients(size):
        models = tiny_ppo_models()
        dpo = DpoSettings(batch_size=48)
        train(models, dpo=dpo, micro_batch_size=size, max_grad_norm=1e9)
        return [weights.grad for weights in models.policy.parameters()]

    for one, two in zip(gradients(None), gradients(7), strict=True):
        assert_close(one, two, atol=1e-5, rtol=1e-4)


def test_only_the_policy_moves():
    models = tiny_ppo_models()
    frozen = [models.reference, models.scorer, models.value_model]
    before = [weights_digest(model) for model in frozen]
    policy = weights_digest(models.policy)
    train(models)
    assert [weights_digest(model) for model in frozen] == before
    assert weights_digest(models.policy) != policy


def test_score_and_kl_are_measured_on_samples_now_and_then_and_at_the_end():
    reports = history(tiny_ppo_models(), dpo=DpoSettings(batch_size=8, measurements=3))
    measured = [step for step, metrics in enumerate(reports, start=1) if "score" in metrics]
    assert measured == [2, 4, 6]
    assert {"kl_to_reference", "ended_share", "entropy", "distinct_share"} <= reports[-1].keys()


@pytest.mark.parametrize(
    "steps, measurements, expected",
    [(6, 3, [2, 4, 6]), (3, 10, [1, 2, 3]), (7, 2, [4, 7]), (5, 1, [5])],
)
def test_measurements_are_spread_evenly(steps, measurements, expected):
    assert measuring_steps(steps, measurements) == expected


def test_rows_that_compare_nothing_are_left_out_and_none_left_is_refused():
    rows = Rankings(PROMPTS[:3], LIKES_SIX.responses[:3], [[1, 1, 1], [1, 1, 2], [2, 2, 2]])
    reference = tiny_policy()
    kept = with_reference(rows, reference, settings_of(), SPECIAL)
    assert kept.rankings.prompts == [PROMPTS[1]]
    ties = Rankings(PROMPTS[:1], LIKES_SIX.responses[:1], [[1, 1, 1]])
    with pytest.raises(DataError, match="None of 1 preferences ranks one response above another"):
        with_reference(ties, reference, settings_of(), SPECIAL)


def test_training_stops_once_the_policy_is_too_far_away():
    limits = {"kl_to_reference": {"stop": 0.2}}
    with pytest.raises(TrainingStopped, match=r"DPO stopped at update .*\(limit 0\.1\)"):
        train(tiny_ppo_models(), learning_rate=0.03, sentinel=limits)
