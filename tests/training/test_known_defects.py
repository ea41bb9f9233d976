"""Defects that other people's RLHF code is known to have had, each of which fails here by name.

All of them leave the reward rising (section 3.12 of the specification), so no curve would tell.
"""

import json
import signal
from collections import Counter

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch.testing import assert_close

from rlhf_core.batches import Sequences, SpecialTokens
from rlhf_core.errors import Stopped
from rlhf_core.scorers import Judgement, Scorer
from rlhf_core.training import ppo
from rlhf_core.training.ppo_metrics import rollout_metrics, surprisal_z
from tests.tiny_models import tiny_ppo_models
from tests.training.resuming import newest, run, run_ppo
from tests.training.test_ppo import PROMPTS, rollouts_of
from tests.training.test_rollouts import collect, moved, real_ids

close = {"atol": 1e-5, "rtol": 1e-5}  # float32 on the CPU, sums in another order


def test_the_score_is_paid_once_and_not_at_every_token():
    rollout = collect(tiny_ppo_models(), kl_coef=0.0)
    assert (rollout.response_mask.sum(dim=1) > 1).any()
    assert_close(rollout.rewards.sum(dim=1), rollout.scores, **close)
    assert (rollout.rewards != 0).sum(dim=1).tolist() == [1] * len(rollout)


def test_values_are_those_of_the_states_before_the_tokens_whatever_the_padding():
    models = moved()
    rollout = collect(models)
    padded = {int(row.sum()) for row in rollout.sequences.prompt_mask}
    assert len(padded) > 1  # prompts of several lengths
    assert len(set(rollout.response_mask.sum(dim=1).tolist())) > 1
    for row in range(len(rollout)):
        prompt, response = real_ids(rollout, row)
        ids = torch.tensor([[*prompt, *response]])
        with torch.no_grad():
            alone = models.value_model(ids, torch.ones_like(ids).bool())[0]
        before = alone[len(prompt) - 1 : -1]  # the state before each token, without any padding
        assert_close(rollout.old_values[row, : len(response)], before, **close)
        assert not rollout.old_values[row, len(response) :].any()


def test_no_two_rollouts_and_no_two_processes_draw_with_one_seed(monkeypatch):
    still = {"learning_rate": 1e-30, "rollout_batch_size": 48, "mini_batch_size": 48}
    seen = rollouts_of(monkeypatch, tiny_ppo_models(), updates=3, **still)
    answers = []
    for rollout in seen:
        answered = (real_ids(rollout, row) for row in range(48))
        answers.append(sorted((tuple(prompt), tuple(response)) for prompt, response in answered))
    assert [prompt for prompt, _ in answers[0]] == [prompt for prompt, _ in answers[1]]
    assert answers[0] != answers[1] != answers[2] != answers[0]
    seeds = [ppo._seed(1, update, process) for update in range(50) for process in range(8)]
    assert len(set(seeds)) == 400


def test_rollouts_are_drawn_from_the_policy_and_not_its_likeliest_tokens():
    rollout = collect(tiny_ppo_models(), [[3, 4]] * 256)
    answers = {tuple(real_ids(rollout, row)[1]) for row in range(256)}
    assert len(answers) > 100
    assert abs(surprisal_z(rollout)) < 4
    first = Counter(rollout.sequences.response_ids[:, 0].tolist())
    assert first.most_common(1)[0][1] < 256


def test_every_prompt_comes_as_often_as_every_other_though_batches_do_not_divide_them(monkeypatch):
    # 48 prompts in batches of 32: the second batch holds what is left of the first pass
    seen = rollouts_of(monkeypatch, tiny_ppo_models(), updates=3, ppo_epochs=1)
    prompts = [tuple(real_ids(rollout, row)[0]) for rollout in seen for row in range(32)]
    expected = Counter(tuple(prompt) for prompt in PROMPTS)
    assert Counter(prompts) == Counter({prompt: 2 * times for prompt, times in expected.items()})


def test_the_penalty_is_the_kl_to_the_reference_and_not_to_the_policy_of_the_rollout():
    rollout = collect(moved(), kl_coef=0.5)
    kl = (rollout.old_logprobs - rollout.ref_logprobs).masked_fill(~rollout.response_mask, 0.0)
    assert kl.sum(dim=1).mean() > 1  # another model; the policy of the rollout is at distance 0
    assert_close(rollout.rewards.sum(dim=1), rollout.scores - 0.5 * kl.sum(dim=1), **close)


def test_the_ids_that_are_scored_are_those_that_were_sampled(monkeypatch):
    scored: list[Sequences] = []
    judge = Scorer.judge

    def watched(
        self: Scorer, sequences: Sequences, *, special: SpecialTokens, batch_size: int
    ) -> Judgement:
        scored.append(sequences)
        return judge(self, sequences, special=special, batch_size=batch_size)

    monkeypatch.setattr(Scorer, "judge", watched)
    models = tiny_ppo_models()
    rollout = collect(models)
    assert torch.equal(scored[0].input_ids, rollout.sequences.input_ids)
    assert torch.equal(scored[0].attention_mask, rollout.sequences.attention_mask)
    for row in range(len(rollout)):
        prompt, response = real_ids(rollout, row)
        ids = torch.tensor([[*prompt, *response]])
        with torch.no_grad():
            alone = models.scorer.reward_model.first(ids, torch.ones_like(ids).bool())[0, -1]
        assert_close(rollout.raw_scores[row], alone, **close)


def test_padding_is_part_of_no_average():
    rollout = collect(moved())
    found = rollout_metrics(rollout, kl_coef=0.05, accelerator=Accelerator())
    tokens = [
        (row, token)
        for row in range(len(rollout))
        for token in range(int(rollout.response_mask[row].sum()))
    ]
    assert len(tokens) < rollout.response_mask.numel()
    of_tokens = {
        "entropy": [float(rollout.entropy[at]) for at in tokens],
        "surprisal": [-float(rollout.old_logprobs[at]) for at in tokens],
        "value": [float(rollout.old_values[at]) for at in tokens],
    }
    for name, numbers in of_tokens.items():
        assert found[name] == pytest.approx(sum(numbers) / len(numbers), rel=1e-4)
    kl = sum(float(rollout.old_logprobs[at] - rollout.ref_logprobs[at]) for at in tokens)
    assert found["kl_to_reference"] == pytest.approx(kl / len(rollout), rel=1e-4)
    # Whitened over the real tokens alone: their mean is 0 and their variance 1.
    advantages = rollout.advantages[rollout.response_mask]
    assert_close(advantages.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    assert_close(advantages.std(correction=0), torch.tensor(1.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("missing_eos", ["replace_low", "replace", "subtract"])
def test_a_response_that_was_cut_never_gains_by_it_though_its_score_is_negative(missing_eos):
    models = tiny_ppo_models()
    with torch.no_grad():
        models.scorer.reward_model.first.head.bias.sub_(5.0)  # every score is below 0
    rollout = collect(models, missing_eos=missing_eos, missing_eos_score=-20.0)
    cut = ~rollout.ended
    assert cut.any()
    assert (rollout.raw_scores < 0).all()
    assert (rollout.scores[cut] < rollout.raw_scores[cut]).all()


def reported(folder) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "payload" / "history.jsonl").open()]


@pytest.fixture(scope="module")
def whole_and_continued(tmp_path_factory):
    """A run of five updates, and one that was ended after the third and continued."""
    root = tmp_path_factory.mktemp("runs")
    run(run_ppo, root / "whole")
    with pytest.raises(Stopped) as stopped:
        run(run_ppo, root / "continued", stop_after=3)
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    run(run_ppo, root / "continued")
    return root / "whole", root / "continued"


def test_the_adaptive_kl_coefficient_goes_on_where_it_was(whole_and_continued):
    whole, continued = ([row["kl_coef"] for row in reported(of)] for of in whole_and_continued)
    assert len(set(whole)) == 5  # it moves with every update
    assert continued == whole


def test_the_optimizers_state_goes_on_where_it_was(whole_and_continued):
    for network in ("policy", "value_model"):
        whole, continued = (
            load_file(newest(of) / f"{network}-optimizer.safetensors") for of in whole_and_continued
        )
        steps = {float(whole[name]) for name in whole if name.endswith("/step")}
        assert steps == {16.0 if network == "policy" else 20.0}  # 4 an update; one is a warm-up
        assert whole.keys() == continued.keys()
        assert all(torch.equal(whole[name], continued[name]) for name in whole)
