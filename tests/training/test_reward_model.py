import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch.testing import assert_close

from rlhf_core.batches import SharedPrompts, pad_left, pad_right
from rlhf_core.maths.normalization import centred
from rlhf_core.models import weights_digest
from rlhf_core.pretrained import load_scalar_model, new_scalar_model, save_model
from rlhf_core.report import ignore
from rlhf_core.reward_models import (
    RewardModel,
    member_scores_in_batches,
    new_heads,
    rescale_member,
    take_mean_of_heads,
)
from rlhf_core.settings.reward_model import EnsembleSettings, RewardModelSettings
from rlhf_core.training.compared import Comparisons, compare
from rlhf_core.training.ranked import Rankings, drawn_rows, mismatches
from rlhf_core.training.reward_model import ReadOuts, train_reward_model
from tests.tiny_models import PAD, SPECIAL, tiny_policy, tiny_scalar_model

PAIRS = Rankings(
    [[3 + i % 9, 3 + i % 4] for i in range(32)],
    [
        [[3, 4 + i % 8, 1], [4 + i % 8, 4 + i % 5, 4 + i % 3, 1]]
        if i % 2
        else [[4 + i % 8, 4 + i % 5, 1], [4 + i % 8, 3, 4 + i % 3, 1]]
        for i in range(32)
    ],
    [[1, 2] if i % 2 else [2, 1] for i in range(32)],
)
"""The response that holds token 3 is the better one; it is neither always first nor always longer.
"""

RANKINGS = Rankings(
    [[3], [4, 5], [6]],
    [
        [[3, 1], [4, 4, 1], [5, 1], [6, 6, 6, 1]],
        [[7, 1], [8, 1], [9, 9, 1]],
        [[10, 1], [11, 1]],
    ],
    [[1, 2, 2, 3], [2, 1, 3], [2, 1]],
)


def train(reward_model, rankings=PAIRS, *, report=ignore, mismatched=None, seed=1, **changes):
    chosen = {"batch_size": 8, "learning_rate": 0.005, "warmup_share": 0.0} | changes
    if not isinstance(reward_model, RewardModel):
        reward_model = RewardModel([reward_model])
    return train_reward_model(
        reward_model,
        rankings,
        RewardModelSettings(**chosen),
        report,
        special=SPECIAL,
        mismatched=mismatched,
        seed=seed,
        accelerator=Accelerator(),
    )


def fresh(tmp_path):
    """A reward model as training starts from it: a policy's body under a new head."""
    tiny_policy().save_pretrained(tmp_path / "policy")
    return new_scalar_model(tmp_path / "policy", seed=1)


def score(reward_model, prompts, responses):
    (found,) = member_scores_in_batches(
        RewardModel([reward_model]), prompts, responses, special=SPECIAL, batch_size=64
    )
    return found


def test_it_fits_32_separable_pairs_and_starts_from_a_guess(tmp_path):
    reward_model, losses = fresh(tmp_path), []
    steps = train(
        reward_model, epochs=12, report=lambda step, metrics: losses.append(metrics["loss"])
    )

    assert steps == len(losses) == 48  # 32 pairs in batches of 8, 12 times
    # A guess loses log 2 = 0.69; scores of deviation 1 add up to about 0.2 (invariant 23).
    assert 0.6 < losses[0] < 0.95
    found = compare(RewardModel([reward_model]), PAIRS, special=SPECIAL, batch_size=8)
    assert found.correct.tolist() == [1.0] * 32


def test_the_first_accuracy_and_loss_are_those_of_the_scores_before_the_step(tmp_path):
    reward_model, seen = fresh(tmp_path), []
    found = compare(RewardModel([reward_model]), PAIRS, special=SPECIAL, batch_size=8)
    train(reward_model, batch_size=32, report=lambda step, metrics: seen.append(metrics))
    assert_close(seen[0]["accuracy"], float((found.better > found.worse).float().mean()))
    by_hand = torch.log1p(torch.exp(found.worse - found.better)).mean()
    assert_close(seen[0]["loss"], by_hand.item(), atol=1e-5, rtol=0)  # float32 on the CPU


@pytest.mark.parametrize("rankings", [PAIRS, RANKINGS], ids=["pairs", "rankings"])
def test_micro_batches_do_not_change_the_gradient(rankings):
    def gradients(micro_batch_size):
        model = tiny_scalar_model()
        train(model, rankings, micro_batch_size=micro_batch_size, batch_size=32, max_grad_norm=1e9)
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    whole = gradients(None)
    for size in (1, 2):
        for name, gradient in gradients(size).items():
            # float32 sums in another order, of gradients that are about 0.1; that of the head's
            # bias is 0 but for rounding.
            assert_close(gradient, whole[name], atol=1e-5, rtol=1e-4, msg=name)


def forwarded(model):
    """How many prompts and how many responses each pass had, filled while the model is used."""
    seen = []
    shared = model.states_after_prompts

    def noted(batch):
        seen.append((len(batch.prompt_ids), len(batch.response_ids)))
        return shared(batch)

    model.states_after_prompts = noted
    return seen


def test_every_response_of_a_prompt_is_forwarded_once_in_one_step():
    model = tiny_scalar_model()
    seen = forwarded(model)
    train(model, RANKINGS, batch_size=1)
    # K forwards for K responses, not K (K - 1), after one of their prompt.
    assert sorted(seen) == [(1, 2), (1, 3), (1, 4)]


class Written(torch.nn.Module):
    """A reward model that says of the end token what is written for the token before it."""

    def __init__(self, scores):
        super().__init__()
        self.head = torch.nn.Linear(1, 1)
        self.scores = torch.nn.Parameter(torch.tensor(scores))

    def states_after_prompts(self, batch):
        states = self.scores[batch.response_ids.roll(1, dims=1)].unsqueeze(-1)
        return states, states

    def read(self, hidden):
        return hidden.squeeze(-1)


def test_every_prompt_weighs_the_same_however_many_responses_it_has():
    # The published K-wise vectors: 0.1783 of 5 pairs with one tie, and 0.6089 of 3 pairs.
    scores = [0.0, 0.0, 0.0, 2.0, 1.0, 0.5, -1.0, 0.3, 0.1, -0.2]
    two = Rankings(RANKINGS.prompts[:2], RANKINGS.responses[:2], RANKINGS.ranks[:2])
    seen = []
    train(
        Written(scores),
        two,
        batch_size=2,
        token_loss_weight=0.0,
        report=lambda step, metrics: seen.append(metrics),
    )
    # Pooled over 8 pairs it would be 0.3398.
    assert_close(seen[0]["loss"], (0.1783207 + 0.608857) / 2, atol=2e-6, rtol=0)


def test_comparisons_are_every_pair_of_different_rank():
    found = compare(RewardModel([tiny_scalar_model()]), RANKINGS, special=SPECIAL, batch_size=2)
    assert found.prompt_index.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 2]  # 6 pairs less a tie, 3, 1
    # In the order of the first response: ranks 1 2 2 3, then 2 1 3, then 2 1.
    assert found.better_tokens.tolist() == [2, 2, 2, 3, 2, 2, 2, 2, 2]
    assert found.worse_tokens.tolist() == [3, 2, 4, 4, 4, 3, 2, 3, 2]
    (best,) = score(tiny_scalar_model(), [[6]], [[11, 1]])
    assert_close(found.better[-1], best, atol=1e-5, rtol=0)  # float32 on the CPU


def test_a_tie_of_scores_is_half_right():
    zeros = torch.zeros(3)
    found = Comparisons(
        zeros, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3, 2]), *[zeros] * 5
    )
    assert found.correct.tolist() == [0.5, 0.0, 1.0]


def test_after_normalization_demonstrations_score_0_and_no_pair_has_changed(tmp_path):
    reward_model = tiny_scalar_model()
    demonstrations = (
        [[3 + i % 9] for i in range(20)],
        [[3 + i % 8, 4 + i % 7, 1] for i in range(20)],
    )
    before = score(reward_model, *demonstrations)
    pairs = compare(RewardModel([reward_model]), PAIRS, special=SPECIAL, batch_size=8)
    assert abs(before.mean()) > 0.1

    rescale_member(RewardModel([reward_model]), 0, centred(before))

    after = score(reward_model, *demonstrations)
    assert_close(after.mean().item(), 0.0, atol=1e-4, rtol=0)  # invariant 21's bound
    again = compare(RewardModel([reward_model]), PAIRS, special=SPECIAL, batch_size=8)
    # Two float32 scores were shifted before they are subtracted.
    assert_close(again.better - again.worse, pairs.better - pairs.worse, atol=1e-5, rtol=0)
    assert_close(before - after, before.mean().expand(20), atol=1e-5, rtol=0)

    save_model(reward_model.model, tmp_path)
    assert_close(score(load_scalar_model(tmp_path), *demonstrations), after, atol=0, rtol=0)


def test_two_passes_in_train_mode_give_the_same_scores():
    model = tiny_scalar_model(attention_dropout=0.5).train()
    assert torch.equal(score(model, *[[[3]], [[4, 1]]]), score(model, *[[[3]], [[4, 1]]]))


def test_the_same_seed_gives_the_same_weights_twice():
    def digest(seed):
        model = tiny_scalar_model()
        train(model, seed=seed)
        return weights_digest(model)

    assert digest(1) == digest(1)
    assert digest(1) != digest(2)


def test_the_short_last_batch_is_kept():
    rows = Rankings(PAIRS.prompts[:19], PAIRS.responses[:19], PAIRS.ranks[:19])
    model = tiny_scalar_model()
    seen = forwarded(model)
    assert train(model, rows) == 3
    assert sorted(seen) == [(3, 6), (8, 16), (8, 16)]


def test_what_fits_a_prompt_is_learnt_first(tmp_path):
    # The response names the prompt's first token, or another's: nothing else tells them apart.
    prompts = [[3 + index % 9, 4] for index in range(72)]
    responses = [[prompt[0], 1] for prompt in prompts]
    rows = mismatches(prompts, responses, rows=72, group_size=2, seed=1)
    reports = []
    steps = train(
        fresh(tmp_path),
        mismatched=rows,
        epochs=4,
        token_loss_weight=1.0,
        report=lambda step, metrics: reports.append((step, metrics)),
    )
    assert steps == 36 + 16  # 72 and 32 rows in batches of 8, 4 times
    assert [step for step, _ in reports] == list(range(1, 53))
    first, second = reports[:36], reports[36:]
    accuracies = [metrics["mismatch_accuracy"] for _, metrics in first]
    # Two of nine shuffled prompts begin alike now and then, so it cannot be 1.
    assert sum(accuracies[-9:]) / 9 > 0.8 > 0.7 > sum(accuracies[:3]) / 3
    assert all("loss" in metrics for _, metrics in second)


def test_the_second_read_out_sums_over_response_tokens_one_layer_below():
    scalar = tiny_scalar_model()
    model = ReadOuts(RewardModel([scalar]))
    torch.nn.init.normal_(model.token_head.weight)
    prompts, responses = [[3, 4, 5], [6]], [[7, 1], [8, 9, 10, 1]]
    with torch.no_grad():
        batch = SharedPrompts(
            *pad_left(prompts, PAD), *pad_right(responses, PAD), prompt_index=torch.tensor([0, 1])
        )
        numbers = model(batch, SPECIAL.end)
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            ids = torch.tensor([prompt + response])
            below = scalar.model.model(ids, output_hidden_states=True).hidden_states[1][0]
            unit = below / below.square().mean(dim=-1, keepdim=True).sqrt()
            expected = (unit @ model.token_head.weight[0])[len(prompt) :].sum()
            # sums of 32 and 4 terms
            assert_close(numbers.token_sums[row], expected, atol=1e-4, rtol=1e-4)
            alone = scalar(ids, torch.ones_like(ids).bool())[0, len(prompt) :]
            found = numbers.per_token[0, row, : len(response)]
            assert_close(found, alone, atol=1e-5, rtol=0)  # float32 on the CPU


@pytest.mark.parametrize("readout", ["last_content_token", "per_token", "mean_pooled"])
def test_every_read_out_learns_the_pairs(readout, tmp_path):
    reward_model = RewardModel([fresh(tmp_path)], readout)
    train(reward_model, readout=readout, epochs=12)
    found = compare(reward_model, PAIRS, special=SPECIAL, batch_size=8)
    assert found.correct.mean() > 0.9


def test_per_token_training_costs_what_the_differing_tokens_cost():
    # Token 3 says 1, token 4 says 2, token 5 says 3; the end and the padding say 0.5.
    written = Written([0.5, 0.5, 0.0, 1.0, 2.0, 3.0])
    rankings = Rankings([[7]], [[[3, 4, 1], [3, 5, 5, 1]]], [[1, 2]])
    seen = []
    train(
        RewardModel([written], "per_token"),
        rankings,
        readout="per_token",
        batch_size=1,
        report=lambda step, metrics: seen.append(metrics),
    )
    # `Written` says of a token what is written for the one before it: from the second token on it
    # reads 3 4 1 against 3 5 5, that is 1, 2, 0.5 against 1, 3, 3. The last is padding.
    leads = [1.0 - 1.0, 2.0 - 3.0, 0.5 - 3.0]
    expected = sum(math.log1p(math.exp(-lead)) for lead in leads) / 3
    assert_close(seen[0]["pair_loss"], expected, atol=2e-6, rtol=0)


def test_a_margin_of_the_data_is_asked_of_the_better_one():
    scores = [0.0, 0.0, 0.0, 1.2, 0.3]
    rows = Rankings([[5], [5]], [[[3, 1], [4, 1]]] * 2, [[1, 2]] * 2, margins=[0.5, 0.0])
    seen = []
    train(Written(scores), rows, batch_size=2, report=lambda step, metrics: seen.append(metrics))
    # Vectors PW and the first pair: 0.513015 with margin 0.5, and 0.341154 without.
    assert_close(seen[0]["loss"], (0.513015 + 0.341154) / 2, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    "changes,expected",
    [
        # A tie half a unit apart loses log 2 + log cosh 0.25.
        ({"ties": "half"}, (5 * 0.1783207 + 0.693147 + 0.030929) / 6),
        ({"loss": "best_of_k"}, 0.495182),
    ],
)
def test_ties_and_the_choice_of_the_best_are_learnt_where_they_are_asked_for(changes, expected):
    # The published ranking 2, 1, 0.5, -1, whose middle two are tied.
    scores, seen = [0.0, 0.0, 0.0, 2.0, 1.0, 0.5, -1.0], []
    row = Rankings(RANKINGS.prompts[:1], RANKINGS.responses[:1], RANKINGS.ranks[:1])
    train(
        Written(scores),
        row,
        batch_size=1,
        report=lambda step, metrics: seen.append(metrics),
        **changes,
    )
    assert_close(seen[0]["loss"], expected, atol=2e-6, rtol=0)


def test_heads_on_one_body_learn_and_share_it(tmp_path):
    scalar = fresh(tmp_path)
    reward_model = RewardModel([scalar], "eos", new_heads(scalar, 3, seed=2))
    train(reward_model, epochs=12, ensemble=EnsembleSettings(members=3))
    take_mean_of_heads(reward_model)
    found = compare(reward_model, PAIRS, special=SPECIAL, batch_size=8)
    assert found.correct.mean() > 0.9
    assert found.disagreement.min() > 0


def test_a_member_learns_nothing_from_rows_that_are_not_its_own():
    scalar = tiny_scalar_model()
    heads = new_heads(scalar, 2, seed=2)
    before = heads.weight.clone()
    rows = replace(PAIRS, seen=torch.tensor([[True] * 32, [False] * 32]))
    reward_model = RewardModel([scalar], "eos", heads)
    train(reward_model, rows, ensemble=EnsembleSettings(members=2, data_share=0.5))
    assert not torch.equal(heads.weight[0], before[0])
    assert torch.equal(heads.weight[1], before[1])


def test_rows_are_drawn_for_each_member_from_the_seed():
    seen = drawn_rows(10, members=3, share=0.4, seed=1)
    assert seen.sum(dim=1).tolist() == [4, 4, 4]
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen, drawn_rows(10, members=3, share=0.4, seed=1))
    assert not torch.equal(seen, drawn_rows(10, members=3, share=0.4, seed=2))
    assert drawn_rows(3, members=2, share=0.01, seed=1).sum(dim=1).tolist() == [1, 1]


def test_rows_of_ties_alone_pull_scores_together_where_ties_are_learnt(tmp_path):
    reward_model = fresh(tmp_path)
    rows = Rankings(PAIRS.prompts, PAIRS.responses, [[1, 1]] * 32)

    def spread():
        found = compare(RewardModel([reward_model]), PAIRS, special=SPECIAL, batch_size=8)
        return float((found.better - found.worse).abs().mean())

    before = spread()
    train(reward_model, rows, ties="half", epochs=4)
    assert spread() < before / 2
