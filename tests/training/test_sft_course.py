"""What is kept and said while SFT goes from epoch to epoch."""

from itertools import pairwise

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.testing import assert_close

from rlhf_core.errors import ModelError
from rlhf_core.models import weights_digest
from rlhf_core.report import ignore
from rlhf_core.settings.sft import SftSettings
from rlhf_core.training.demonstrations import Demonstrations
from rlhf_core.training.residual_dropout import residual_dropout
from rlhf_core.training.sft import train_sft, validation_loss
from rlhf_core.training.sft_course import EpochSampler, SftCourse
from rlhf_core.training.trained import take_tensors
from tests.tiny_models import PAD, SPECIAL, tiny_policy
from tests.training.resuming import COPIES, OTHERS


def train(policy, *, train_rows=COPIES, validation=OTHERS, report=ignore, said=None, **changes):
    sampler = changes.pop("sampler", None)
    settings = SftSettings(
        **{"epochs": 5, "batch_size": 8, "learning_rate": 0.01, "warmup_share": 0.0} | changes
    )
    return train_sft(
        policy,
        train_rows,
        validation,
        settings,
        report,
        pad_token_id=PAD,
        seed=1,
        accelerator=Accelerator(),
        sampler=sampler,
        notice=(said if said is not None else []).append,
    )


def test_overfitting_is_said_once_when_the_validation_loss_turns():
    losses, said = {}, []

    def report(step, metrics):
        losses.update({step: metrics["validation_loss"]} if "validation_loss" in metrics else {})

    outcome = train(tiny_policy(), report=report, said=said)

    steps = sorted(losses)
    worse = [b for a, b in pairwise(steps) if losses[b] > losses[a]]
    assert len(worse) > 1
    assert outcome.turned_at == worse[0]
    assert len(said) == 1
    best = steps[steps.index(worse[0]) - 1]
    assert f"from {losses[best]:.4f} after {best / 6:.3g} epochs" in said[0]
    assert "fewer sft.epochs" in said[0].lower()


def test_a_loss_that_falls_again_below_its_best_has_not_turned():
    said, policy = [], tiny_policy()
    course = SftCourse(SftSettings(epochs=9), 4, said.append)
    turned = []
    # Twice an epoch of 4 steps: a bump within an epoch is none; after 8 and 16 steps it has turned.
    for step, loss in zip(
        range(2, 22, 2), (3.0, 2.0, 2.5, 2.1, 1.9, 1.8, 2.2, 1.9, 1.9, 1.7), strict=True
    ):
        course.evaluated(policy, step=step, loss=loss)
        turned.append(course.best["turned_at"])
    assert turned == [0, 0, 0, 8, 0, 0, 0, 16, 16, 0]
    assert len(said) == 1
    assert "from 2.0000 after 1 epochs to 2.1000 after 2" in said[0]


def test_nothing_is_said_while_the_validation_loss_falls():
    said = []
    assert train(tiny_policy(), validation=COPIES, said=said, epochs=3).turned_at == 0
    assert said == []


def test_the_last_weights_remain_where_the_recipe_says_so():
    chosen, last = tiny_policy(), tiny_policy()
    best_loss = train(chosen).validation_loss
    outcome = train(last, selection="last")
    assert weights_digest(chosen) != weights_digest(last)
    found = validation_loss(last, OTHERS, 8, PAD, Accelerator())
    assert_close(found, outcome.validation_loss, atol=1e-6, rtol=0)  # the same sums again
    assert outcome.validation_loss > best_loss


@pytest.mark.parametrize("changes", [{"keep_epochs": True}, {"selection": "reward_model_score"}])
def test_each_epochs_weights_are_kept_as_they_were_then(changes):
    outcome = train(tiny_policy(), epochs=3, schedule="constant", **changes)
    assert sorted(outcome.epochs) == [1, 2, 3]
    for epoch, weights in outcome.epochs.items():
        then = tiny_policy()
        train(then, epochs=epoch, schedule="constant", selection="last")
        kept = tiny_policy(seed=9)
        take_tensors(kept, weights)
        assert weights_digest(kept) == weights_digest(then)


def test_no_epoch_is_kept_unasked():
    assert train(tiny_policy(), epochs=2).epochs == {}


def sampler(*, max_tokens=12, temperature=1.0) -> EpochSampler:
    prompts = [[3 + i % 9] for i in range(24)]
    return EpochSampler(prompts, SPECIAL, max_tokens, temperature, usual_repetition=0.0)


def test_samples_of_every_epoch_are_kept_and_measured_without_changing_the_training():
    reported, alone, watched = {}, tiny_policy(), tiny_policy()

    def report(step, metrics):
        reported.update({step: metrics} if "sample_ended_share" in metrics else {})

    train(alone, epochs=2)
    outcome = train(watched, epochs=2, sampler=sampler(), report=report)
    assert weights_digest(alone) == weights_digest(watched)
    assert sorted(reported) == [6, 12]
    assert {epoch: len(rows) for epoch, rows in outcome.samples.items()} == {1: 24, 2: 24}
    last = outcome.samples[2]
    ended = sum(row[-1] == 1 for row in last) / 24
    assert reported[12]["sample_ended_share"] == ended
    assert reported[12]["sample_response_tokens"] == sum(map(len, last)) / 24


def test_a_broken_record_and_a_policy_that_never_ends_are_said():
    said = []
    endless = Demonstrations(
        [[3 + i % 9] for i in range(40)], [[3 + i % 9] * 20 for i in range(40)]
    )
    rows = {"train_rows": endless, "validation": endless}
    train(tiny_policy(), **rows, epochs=2, said=said, sampler=sampler(temperature=0.0))
    assert any("repeat themselves like a broken record" in line for line in said)
    assert any("only 0% of the samples after epoch 2 end within 12 tokens" in line for line in said)


def test_good_samples_are_nothing_to_be_said():
    said = []
    short = Demonstrations([[3 + i % 9] for i in range(40)], [[5, 6, 1] for _ in range(40)])
    rows = {"train_rows": short, "validation": short}
    policy = tiny_policy()
    train(policy, **rows, epochs=4)
    train(policy, **rows, epochs=1, learning_rate=1e-4, said=said, sampler=sampler(temperature=0.0))
    assert said == []


def test_residual_dropout_drops_what_blocks_add_and_leaves_the_model_as_it_was():
    policy = tiny_policy().train()
    names = [name for name, _ in policy.named_modules()]
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        plain = policy(input_ids=ids).logits
        with residual_dropout(policy, 0.5):
            added = [m for m in policy.modules() if isinstance(m, nn.Dropout)]
            first, second = (policy(input_ids=ids).logits for _ in range(2))
            policy.eval()
            evaluated = policy(input_ids=ids).logits
        policy.train()
        with residual_dropout(policy, 1 - 1e-7):  # of the residual stream the embedding is left
            embedded = policy(input_ids=ids).logits
        stream = policy.model.norm(policy.model.embed_tokens(ids))
        after = policy(input_ids=ids).logits
    assert len(added) == 4  # attention and MLP of two layers
    assert not torch.equal(first, second)
    assert torch.equal(evaluated, plain)
    assert torch.equal(after, plain)
    assert_close(embedded, policy.lm_head(stream), atol=1e-5, rtol=0)
    assert [name for name, _ in policy.named_modules()] == names


def test_a_model_without_known_blocks_takes_no_residual_dropout():
    with (
        pytest.raises(ModelError, match=r"sft\.dropout=0\.2.*Set sft\.dropout to 0"),
        residual_dropout(nn.Sequential(nn.Linear(2, 2)), 0.2),
    ):
        pass


def test_dropout_is_active_in_training_and_off_in_evaluation():
    plain, dropped = tiny_policy(), tiny_policy()
    torch.manual_seed(0)
    train(plain, epochs=1)
    train(dropped, epochs=1, dropout=0.3)
    assert weights_digest(plain) != weights_digest(dropped)
    twice = [validation_loss(dropped, OTHERS, 8, PAD, Accelerator()) for _ in range(2)]
    assert twice[0] == twice[1]
