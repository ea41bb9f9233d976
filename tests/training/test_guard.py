"""The guard ladder in a real loop: what becomes of spikes and of numbers that are not finite."""

import json
import math

import pytest
import torch
from accelerate import Accelerator

from rlhf_core.errors import TrainingStopped
from rlhf_core.models import weights_digest
from rlhf_core.pretrained import save_model
from rlhf_core.report import ignore
from rlhf_core.settings.sentinel import SentinelSettings
from rlhf_core.settings.sft import SftSettings
from rlhf_core.training import sft, sft_loss
from rlhf_core.training.first_bad import Bad
from rlhf_core.training.guard import Guard
from rlhf_core.training.optimization import Part, adamw, optimizer_step
from rlhf_core.training.sft import train_sft
from rlhf_core.training.trained import Trained, moments
from tests.tiny_models import PAD, tiny_policy
from tests.training.resuming import COPIES, OTHERS

STEPS = 24


def train(policy, *, report=ignore, notice=lambda line: None, batch_size=8, **changes):
    settings = SftSettings(
        **{"epochs": 4, "batch_size": batch_size, "learning_rate": 0.003, "warmup_share": 0.0}
        | changes
    )
    train_sft(
        policy,
        COPIES,
        OTHERS,
        settings,
        report,
        pad_token_id=PAD,
        seed=1,
        accelerator=Accelerator(),
        notice=notice,
    )


def spoil(monkeypatch, wrong, *, factor):
    """Multiply the loss of the training steps in `wrong` by a factor; steps count from 1."""
    right, taken = sft_loss.language_model_loss, {"steps": 0}

    def loss(logprobs, label_mask):
        value = right(logprobs, label_mask)
        if not torch.is_grad_enabled():
            return value
        taken["steps"] += 1
        return value * factor if taken["steps"] in wrong else value

    monkeypatch.setattr(sft_loss, "language_model_loss", loss)


def watched(policy, digests):
    """A report that takes the weights' hash after every training step."""

    def report(step, metrics):
        if "grad_norm" in metrics:
            digests[step] = weights_digest(policy)

    return report


@pytest.mark.parametrize("factor", [math.nan, math.inf])
@pytest.mark.parametrize("wrong", [3, 14, STEPS])
def test_a_bad_step_is_skipped_bit_for_bit_and_counted(monkeypatch, wrong, factor):
    spoil(monkeypatch, {wrong}, factor=factor)
    policy, digests, reports = tiny_policy(), {}, []
    after_each_step = watched(policy, digests)

    def report(step, metrics):
        after_each_step(step, metrics)
        reports.append((step, metrics))

    train(policy, report=report)

    assert digests[wrong] == digests[wrong - 1]
    assert len(set(digests.values())) == STEPS - 1
    (count,) = [metrics["skipped_steps"] for _, metrics in reports if "skipped_steps" in metrics]
    assert count == 1
    (loss,) = [m["loss"] for step, m in reports if step == wrong and "grad_norm" in m]
    assert not math.isfinite(loss)


def test_a_skipped_step_leaves_the_optimizer_as_it_was():
    policy = tiny_policy()
    trained = Trained(policy, adamw(policy, 0.01))
    guard = Guard("sft", SentinelSettings(), {"policy": trained})
    for loss in (1.0, math.nan):
        before = {name: tensor.clone() for name, tensor in moments(trained).items()}
        optimizer_step(
            Accelerator(),
            policy,
            trained.optimizer,
            [1.0],
            lambda _, loss=loss: Part(
                loss * sum(weight.sum() for weight in policy.parameters()), 1.0, {}
            ),
            max_grad_norm=1.0,
            guard=guard,
        )
    after = moments(trained)
    assert before.keys() == after.keys() != set()
    assert all(torch.equal(before[name], after[name]) for name in after)


def test_bad_steps_in_a_row_bring_back_the_good_state_with_half_the_learning_rate(monkeypatch):
    spoil(monkeypatch, {8, 9, 10}, factor=math.nan)
    policy, digests = tiny_policy(), {}
    told = []
    rates = []
    right = sft.set_learning_rate
    monkeypatch.setattr(
        sft,
        "set_learning_rate",
        lambda optimizer, rate: (rates.append(rate), right(optimizer, rate)),
    )
    train(
        policy,
        report=watched(policy, digests),
        final_learning_rate_share=1.0,
        sentinel={"good_state_every": 5},
        notice=told.append,
    )

    assert digests[11] != digests[7]
    assert [rate / 0.003 for rate in (rates[9], rates[10])] == [1.0, 0.5]
    (returned,) = [line for line in told if "training goes on from the good state" in line]
    assert "good state of step 5 with half the learning rate" in returned
    # What step 10 reported is from before the return; step 11 was taken from the state of step 5.
    other = tiny_policy()
    spoil(monkeypatch, set(), factor=1)
    kept = {}
    train(other, report=watched(other, kept), final_learning_rate_share=1.0)
    assert kept[5] == digests[5]


def test_bad_numbers_that_come_back_stop_training_and_name_the_layer(monkeypatch):
    policy = tiny_policy()
    before = weights_digest(policy)
    policy.model.layers[1].mlp.down_proj.register_forward_hook(
        lambda module, inputs, output: output * math.nan
    )
    reports = []
    with pytest.raises(TrainingStopped) as stopped:
        train(policy, report=lambda step, metrics: reports.append(step))

    assert reports == [1, 2, 3, 4, 5, 6]  # three are skipped, then three more after the return
    assert weights_digest(policy) == before
    found = stopped.value.diagnosis
    assert found["first_bad_tensor"] == "output of layer model.layers.1.mlp.down_proj"
    assert [batch["step"] for batch in found["bad_batches"]] == [1, 2, 3, 4, 5, 6]
    assert all(len(batch["rows"]) <= 8 for batch in found["bad_batches"])
    assert found["last_steps"][-1] == {"step": 6, "loss": "nan", "grad_norm": "nan"}
    assert str(stopped.value) == found["verdict"]
    assert "float16" in found["mend"]
    assert stopped.value.exit_code == 3
    json.dumps(found, allow_nan=False)


def test_five_bad_steps_in_a_hundred_are_as_bad_as_three_in_a_row():
    policy = tiny_policy()
    guard = Guard("sft", SentinelSettings(), {"policy": Trained(policy, adamw(policy, 0.01))})
    guard.keep_first()
    bad = Bad("bad_loss", "the loss")
    returned = [
        guard.judge(step, bad if step % 20 == 0 else None, [step]) for step in range(1, 101)
    ]
    assert returned.index(True) == 99
    assert sum(returned) == 1
    spread = Guard("sft", SentinelSettings(), {"policy": Trained(policy, adamw(policy, 0.01))})
    spread.keep_first()
    assert not any(spread.judge(s, bad if s % 30 == 0 else None, [s]) for s in range(1, 301))


def test_weights_that_are_not_finite_bring_the_good_state_back_at_once():
    policy = tiny_policy()
    guard = Guard("sft", SentinelSettings(), {"policy": Trained(policy, adamw(policy, 0.01))})
    guard.keep_first()
    before = weights_digest(policy)
    with torch.no_grad():
        policy.lm_head.weight[0, 0] = math.inf
    assert guard.judge(1, Bad("bad_weights", "weight lm_head.weight"), [0])
    assert weights_digest(policy) == before


@pytest.mark.parametrize("skip", [False, True])
def test_a_spike_of_the_loss_is_counted_and_skipped_where_asked(monkeypatch, skip):
    spoil(monkeypatch, {40}, factor=200.0)
    policy, digests, counts, told = tiny_policy(), {}, [], []
    after_each_step = watched(policy, digests)

    def report(step, metrics):
        after_each_step(step, metrics)
        counts.extend(x for name, x in metrics.items() if name == "loss_spikes")

    train(policy, report=report, epochs=8, sentinel={"skip_spikes": skip}, notice=told.append)

    assert counts == [1.0]
    assert (digests[40] == digests[39]) == skip
    assert sum("deviations above its mean" in line for line in told) == 1


def test_a_training_of_bad_steps_alone_does_not_end_as_if_it_had_worked(monkeypatch):
    spoil(monkeypatch, set(range(100)), factor=math.nan)
    with pytest.raises(TrainingStopped, match="every step was skipped, the loss being not finite"):
        train(tiny_policy(), epochs=1, batch_size=45)


def test_weights_that_are_not_finite_are_not_published(tmp_path):
    policy = tiny_policy()
    with torch.no_grad():
        policy.lm_head.weight[0, 0] = math.nan
    with pytest.raises(TrainingStopped, match=r"not published: its weight lm_head\.weight"):
        save_model(policy, tmp_path / "policy")
    assert not (tmp_path / "policy").exists()


@pytest.mark.parametrize("learning_rate, lines", [(1e-9, 1), (0.003, 0)])
def test_a_loss_that_does_not_fall_is_told(learning_rate, lines):
    told = []
    train(tiny_policy(), epochs=16, learning_rate=learning_rate, notice=told.append)
    flat = "the learning rate is too low, or the labels are masked"
    assert sum(flat in line for line in told) == lines
