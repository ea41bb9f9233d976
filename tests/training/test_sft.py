import gzip
import json
import operator
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.testing import assert_close

from rlhf_core.batches import Encoder, join
from rlhf_core.models import weights_digest
from rlhf_core.pretrained import load_policy, load_tokenizer
from rlhf_core.report import ignore
from rlhf_core.settings.model import ModelSettings
from rlhf_core.settings.sft import SftSettings
from rlhf_core.training.demonstrations import Demonstrations
from rlhf_core.training.optimization import Part, optimizer_step
from rlhf_core.training.sft import train_sft, validation_loss
from rlhf_core.training.sft_loss import sft_loss
from tests.tiny_models import PAD, STORIES, tiny_policy

TEXTS = STORIES.parents[1] / "text" / "tinystories.jsonl.gz"

COPIES = Demonstrations(
    [[3 + i % 9, 3 + i % 7, 3 + i % 5] for i in range(45)],
    [[3 + i % 9] * (1 + i % 4) + [1] for i in range(45)],
)
"""The response repeats the first token of the prompt, up to four times."""


class Scaled(nn.Module):
    """A model of one number."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight


class Table(nn.Module):
    """A policy whose logits are a parameter, so that its gradient shows who was supervised."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(*shape))

    def forward(self, input_ids, attention_mask, position_ids, use_cache, logits_to_keep):
        return SimpleNamespace(logits=self.logits[:, -logits_to_keep:])


def train(policy, *, demonstrations=COPIES, report=ignore, seed=1, **changes):
    settings = SftSettings(
        **{"epochs": 2, "batch_size": 8, "learning_rate": 0.003, "warmup_share": 0.0} | changes
    )
    return train_sft(
        policy,
        demonstrations,
        demonstrations,
        settings,
        report,
        pad_token_id=PAD,
        seed=seed,
        accelerator=Accelerator(),
    )


# The published vectors SFT-1 and SFT-2: ids 11 12 13 | 21 22 1, padded by 2, vocabulary of 30.
@pytest.mark.parametrize(
    "loss_on, columns, targets",
    [("response", [2, 3, 4], [21, 22, 1]), ("all", [0, 1, 2, 3, 4], [12, 13, 21, 22, 1])],
)
def test_the_supervised_targets_are_the_published_ones(loss_on, columns, targets):
    rows = Demonstrations([[11, 12, 13], [11, 12, 13]], [[21, 22, 1], [21, 22, 23, 24, 1]])
    if loss_on == "all":
        rows = rows.with_loss_on_prompts()
    batch = rows.joined([0, 1], PAD)
    policy = Table(2, 8, 30)

    loss = sft_loss(policy, batch)
    loss.backward()

    assert_close(loss.item(), 3.401197, atol=1e-6, rtol=0)  # log 30, to the vector's six decimals
    gradient = policy.logits.grad[0]
    assert gradient.abs().sum(dim=1).nonzero().squeeze(1).tolist() == columns
    # The gradient of a cross-entropy is negative at its target alone.
    assert gradient[columns].argmin(dim=1).tolist() == targets


def test_the_loss_is_a_mean_over_tokens_not_over_responses():
    policy = tiny_policy()
    rows = Demonstrations([[3], [4]], [[5, 6, 7, 1], [1]])
    with torch.no_grad():
        both = sft_loss(policy, rows.joined([0, 1], PAD))
        each = [sft_loss(policy, rows.joined([row], PAD)) for row in (0, 1)]
    assert_close(both, (4 * each[0] + 1 * each[1]) / 5, atol=1e-6, rtol=0)  # float32 on the CPU


@pytest.mark.parametrize("loss_on", ["response", "all"])
def test_micro_batches_do_not_change_the_gradient(loss_on):
    def gradients(micro_batch_size):
        policy = tiny_policy()
        one_step = {"epochs": 1, "batch_size": 45, "max_grad_norm": 1e9}
        train(policy, micro_batch_size=micro_batch_size, loss_on=loss_on, **one_step)
        return {name: parameter.grad for name, parameter in policy.named_parameters()}

    whole = gradients(None)
    for size in (1, 7):  # 45 = 6 * 7 + 3
        for name, gradient in gradients(size).items():
            # float32 sums in another order, of gradients that are about 0.1
            assert_close(gradient, whole[name], atol=1e-5, rtol=1e-4, msg=name)


def test_it_learns_to_copy():
    policy, losses = tiny_policy(), []
    train(policy, epochs=15, report=lambda step, metrics: losses.append(metrics.get("loss")))
    steps = [loss for loss in losses if loss is not None]
    assert steps[0] > 1.5
    # What is left is the number of copies, which nobody can know before the first.
    assert steps[-1] < 0.8


def test_the_end_token_is_learnt():
    policy = tiny_policy()
    always_at_once = Demonstrations([[token] for token in range(3, 12)] * 4, [[1]] * 36)
    train(policy, demonstrations=always_at_once, epochs=15)
    with torch.no_grad():
        logits = policy(input_ids=torch.tensor([[5]])).logits[0, -1]
    assert logits.softmax(dim=-1)[1] > 0.9


def test_the_weights_of_the_best_evaluation_remain():
    policy, measured = tiny_policy(), {}
    train_rows, other = COPIES, Demonstrations(COPIES.prompts[:8], [[9, 10, 11, 1]] * 8)

    def report(step, metrics):
        if "validation_loss" in metrics:
            measured[step] = metrics["validation_loss"]

    settings = SftSettings(epochs=6, batch_size=8, learning_rate=0.01, evaluations_per_epoch=2)
    outcome = train_sft(
        policy,
        train_rows,
        other,
        settings,
        report,
        pad_token_id=PAD,
        seed=1,
        accelerator=Accelerator(),
    )

    # 6 steps an epoch, measured after half of them and all. What is learnt is not what is
    # measured, so that the last is not the best.
    assert sorted(measured) == [3 * index for index in range(1, 13)]
    assert outcome.best_step == min(measured, key=measured.get) < max(measured)
    found = validation_loss(policy, other, 8, PAD, Accelerator())
    assert_close(found, measured[outcome.best_step], atol=1e-6, rtol=0)  # the same sums again
    assert outcome.validation_loss == measured[outcome.best_step]


def test_patience_ends_training_after_as_many_worse_evaluations():
    measured = []
    other = Demonstrations(COPIES.prompts[:8], [[9, 10, 11, 1]] * 8)

    def report(step, metrics):
        measured.extend([metrics["validation_loss"]] if "validation_loss" in metrics else [])

    settings = SftSettings(epochs=20, batch_size=8, learning_rate=0.01, patience=2)
    outcome = train_sft(
        tiny_policy(),
        COPIES,
        other,
        settings,
        report,
        pad_token_id=PAD,
        seed=1,
        accelerator=Accelerator(),
    )
    assert outcome.stopped_early
    assert outcome.steps == 6 * len(measured) < 120
    assert min(measured) == measured[-3]
    assert outcome.best_step == outcome.steps - 12


def test_every_demonstration_is_seen_once_in_each_pass_and_none_is_replaced():
    seen = []

    class Watched(Demonstrations):
        def joined(self, rows, pad_token_id):
            seen.append(list(rows))
            return super().joined(rows, pad_token_id)

    train(tiny_policy(), demonstrations=Watched(COPIES.prompts, COPIES.responses), epochs=1)
    trained, validated = seen[:6], seen[6:]  # 45 = 5 * 8 + 5
    assert sorted(len(rows) for rows in trained) == [5, 8, 8, 8, 8, 8]
    for passes in (trained, validated):
        assert sorted(row for rows in passes for row in rows) == list(range(45))


def test_the_validation_loss_is_a_mean_over_all_tokens():
    policy = tiny_policy().train()
    found = validation_loss(policy, COPIES, 4, PAD, Accelerator())
    losses = [
        float(sft_loss(policy, join([prompt], [response], PAD)).detach()) * len(response)
        for prompt, response in zip(COPIES.prompts, COPIES.responses, strict=True)
    ]
    tokens = sum(len(response) for response in COPIES.responses)
    assert_close(found, sum(losses) / tokens, atol=1e-5, rtol=0)  # float32 on the CPU
    assert policy.training


def test_the_same_seed_gives_the_same_weights_twice():
    def digest(seed):
        policy = tiny_policy()
        train(policy, seed=seed, epochs=1)
        return weights_digest(policy)

    assert digest(1) == digest(1)
    assert digest(1) != digest(2)


@pytest.mark.skipif(
    not STORIES.is_dir(), reason="the folder of public data beside the repository is not here"
)
def test_a_real_models_loss_on_stories_is_the_one_that_transformers_finds():
    encoder = Encoder(load_tokenizer(STORIES), ModelSettings(base=str(STORIES), response_prefix=""))
    with gzip.open(TEXTS, "rt", encoding="utf-8") as file:
        stories = [json.loads(line)["text"] for _, line in zip(range(60), file, strict=False)]
    ids = [row[:256] for row in encoder.prompts(stories)]
    rows = Demonstrations([row[:1] for row in ids], [row[1:] for row in ids])
    policy = load_policy(STORIES)

    loss = validation_loss(policy, rows, 4, encoder.pad_token_id, Accelerator())

    with torch.no_grad():
        each = [
            float(policy(input_ids=torch.tensor([r]), labels=torch.tensor([r])).loss) for r in ids
        ]
    tokens = [len(row) - 1 for row in ids]
    expected = sum(map(operator.mul, each, tokens)) / sum(tokens)
    assert_close(loss, expected, atol=1e-4, rtol=0)  # float32 over 10,000 tokens
    # 1.32 was measured on other stories; these lose 1.50, and one column off would lose over 4.
    assert_close(loss, 1.32, atol=0.25, rtol=0)


def test_plain_text_is_mixed_in_by_its_share_and_learnt_whole():
    texts = [[5, 6, 7, 8, 1], [9, 10, 1]] * 20
    mixed = COPIES.mixed_with(texts, 0.1, seed=1)
    added = len(mixed.prompts) - 45
    assert added == 5  # of 50
    assert (mixed.prompts[:45], mixed.responses[:45]) == (COPIES.prompts, COPIES.responses)
    for prompt, response in zip(mixed.prompts[45:], mixed.responses[45:], strict=True):
        assert [*prompt, *response] in texts
        assert len(prompt) == 1
    assert mixed.tokens([45]) == len(mixed.responses[45])
    assert mixed.tokens(range(45)) == COPIES.tokens(range(45))
    assert len(COPIES.mixed_with(texts[:2], 0.5, seed=1).prompts) == 47  # there are no more
    assert COPIES.mixed_with(texts, 0.1, seed=2).responses[45:] != mixed.responses[45:]


def test_the_token_mean_is_that_of_the_published_vector():
    # AGG: losses [[1, 1, 1, 1], [3]] have the token mean 7 / 5, whatever the micro-batches.
    parts = [(1.0, 4), (3.0, 1)]  # mean loss and targets of each micro-batch
    weight = nn.Parameter(torch.zeros(1))
    step = optimizer_step(
        Accelerator(),
        Scaled(weight),
        torch.optim.SGD([weight], lr=1.0),
        parts,
        lambda part: Part(part[0] * (1 + weight.sum()), part[1], {}),
        max_grad_norm=1e9,
    )
    assert_close(step.loss, 1.4, atol=1e-6, rtol=0)
    assert_close(weight.item(), -1.4, atol=1e-6, rtol=0)  # one step of rate 1 along the gradient
