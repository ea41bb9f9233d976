import pytest
import torch
from accelerate import Accelerator
from torch.testing import assert_close

from rlhf_core.batches import Sequences, join
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.training import rollouts
from rlhf_core.training.ppo_metrics import distinct_share, rollout_metrics, surprisal_z
from rlhf_core.training.rollouts import collect_rollout, values_before
from tests.tiny_models import (
    PAD,
    SPECIAL,
    arranged,
    tiny_policy,
    tiny_ppo_models,
    tiny_scalar_model,
)

PROMPTS = [[3 + i % 9] * (1 + i % 3) + [4 + i % 8] for i in range(48)]

close = {"atol": 1e-5, "rtol": 0.0}  # float32 on the CPU, sums in another order


def collect(models, prompts=PROMPTS, *, seed=3, missing_eos_score=-1.0, **changes):
    settings = PpoSettings(**{"rollout_batch_size": 48, "kl_coef": 0.05} | changes)
    return collect_rollout(
        arranged(models, settings),
        prompts,
        settings,
        special=SPECIAL,
        max_response_tokens=8,
        kl_coef=settings.kl_coef,
        missing_eos_score=missing_eos_score,
        seed=seed,
        accelerator=Accelerator(),
    )


def moved(seed=4):
    """Models whose policy is not the reference."""
    return tiny_ppo_models(reference=tiny_policy(seed=seed))


def real_ids(rollout, row):
    batch = rollout.sequences
    prompt = batch.prompt_ids[row][batch.prompt_mask[row]].tolist()
    return prompt, batch.response_ids[row][batch.response_mask[row]].tolist()


def logprobs_by_hand(policy, prompt, response, temperature=1.0):
    """One row without any padding: the log-probability of each response token."""
    with torch.no_grad():
        logits = policy(input_ids=torch.tensor([prompt + response])).logits[0] / temperature
    logits[:, PAD] = -torch.inf
    rows = logits.log_softmax(dim=-1)[len(prompt) - 1 : -1]
    return rows.gather(1, torch.tensor(response).unsqueeze(1)).squeeze(1)


def test_a_policy_that_is_the_reference_is_at_distance_0_from_it():
    rollout = collect(tiny_ppo_models())
    assert torch.equal(rollout.old_logprobs, rollout.ref_logprobs)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_every_model_says_of_a_padded_row_what_it_says_of_the_row_alone(temperature):
    models = moved()
    rollout = collect(models, temperature=temperature)
    for row in range(12):
        prompt, response = real_ids(rollout, row)
        length = len(response)
        old = logprobs_by_hand(models.policy, prompt, response, temperature)
        reference = logprobs_by_hand(models.reference, prompt, response, temperature)
        assert_close(rollout.old_logprobs[row, :length], old, **close)
        assert_close(rollout.ref_logprobs[row, :length], reference, **close)
        assert_close(rollout.sampler_logprobs[row, :length], old, atol=1e-4, rtol=0)  # test 7's
        ids = torch.tensor([prompt + response])
        with torch.no_grad():
            values = models.value_model(ids, torch.ones_like(ids).bool())[0]
            scores = models.scorer.reward_model.first(ids, torch.ones_like(ids).bool())[0]
        # The value of the state before each token; the score at the last.
        assert_close(rollout.old_values[row, :length], values[len(prompt) - 1 : -1], **close)
        assert_close(rollout.raw_scores[row], scores[-1], **close)


def test_rewards_of_a_response_sum_to_its_score_minus_the_kl_to_the_reference():
    models = moved()
    rollout = collect(models, kl_coef=0.3)
    for row in range(12):
        prompt, response = real_ids(rollout, row)
        kl = logprobs_by_hand(models.policy, prompt, response) - logprobs_by_hand(
            models.reference, prompt, response
        )
        score = rollout.raw_scores[row] if response[-1] == 1 else torch.tensor(-1.0)
        expected = -0.3 * kl
        expected[-1] += score
        assert_close(rollout.rewards[row, : len(response)], expected, **close)
        assert_close(rollout.rewards[row].sum(), score - 0.3 * kl.sum(), **close)


def test_without_a_kl_penalty_only_the_last_token_is_rewarded():
    rollout = collect(moved(), kl_coef=0.0)
    rewarded = rollout.rewards != 0
    assert rewarded.sum(dim=1).tolist() == [1] * 48
    lengths = rollout.response_mask.sum(dim=1)
    assert len(set(lengths.tolist())) > 3
    assert rewarded.long().argmax(dim=1).tolist() == (lengths - 1).tolist()


def test_a_response_that_did_not_end_gets_the_low_score_whatever_it_is_worth():
    rollout = collect(tiny_ppo_models(), missing_eos_score=-3.5)
    ends = (rollout.sequences.response_ids == 1).any(dim=1)
    assert 0 < ends.sum() < 48
    assert torch.equal(rollout.ended, ends)
    assert rollout.scores[~ends].unique().tolist() == [-3.5]
    assert torch.equal(rollout.scores[ends], rollout.raw_scores[ends])


def test_scores_are_bounded_before_the_low_score_is_given():
    rollout = collect(tiny_ppo_models(), missing_eos_score=-3.5, reward_clip=0.25)
    assert rollout.scores[rollout.ended].abs().max() == 0.25
    assert rollout.scores[~rollout.ended].unique().tolist() == [-3.5]


def test_the_value_of_a_state_does_not_see_the_token_chosen_in_it():
    models = tiny_ppo_models()
    batch = join([[3, 4], [5]], [[6, 7, 8, 9, 1], [3, 4, 5, 6, 7]], PAD)
    before = values_before(models.value_model, batch)
    for token in range(5):
        changed = batch.response_ids.clone()
        changed[:, token] = 10
        other = Sequences(batch.prompt_ids, batch.prompt_mask, changed, batch.response_mask)
        after = values_before(models.value_model, other)
        assert torch.equal(after[:, : token + 1], before[:, : token + 1])
        if token < 4:
            assert (after[:, token + 1 :] != before[:, token + 1 :]).all()


def test_padding_on_either_side_changes_no_value():
    model = tiny_scalar_model()
    batch = join([[3, 4], [5]], [[6, 1], [3, 4, 5]], PAD)
    wider = join([[3, 4], [5], [6] * 11], [[6, 1], [3, 4, 5], [7] * 9], PAD)
    kept = batch.response_mask
    found = values_before(model, wider)[:2, :3]
    assert_close(found[kept], values_before(model, batch)[kept], **close)


def test_whatever_stands_after_the_end_changes_no_value():
    model = tiny_scalar_model()
    batch = join([[3, 4], [5]], [[6, 1], [3, 4, 5]], PAD)
    junk = batch.response_ids.masked_fill(~batch.response_mask, 8)
    other = Sequences(batch.prompt_ids, batch.prompt_mask, junk, batch.response_mask)
    kept = batch.response_mask
    assert torch.equal(values_before(model, other)[kept], values_before(model, batch)[kept])


def test_at_lambda_1_an_advantage_is_the_rewards_to_come_minus_the_value():
    rollout = collect(moved(), gae_lambda=1.0, whiten_advantages="nothing")
    to_come = rollout.rewards.flip(1).cumsum(1).flip(1)
    expected = (to_come - rollout.old_values).masked_fill(~rollout.response_mask, 0.0)
    assert_close(rollout.advantages, expected, **close)
    assert_close(rollout.returns[rollout.response_mask], to_come[rollout.response_mask], **close)


def test_whitened_advantages_have_mean_0_and_variance_1_over_real_tokens():
    rollout = collect(moved())
    kept = rollout.advantages[rollout.response_mask]
    assert_close(kept.mean().item(), 0.0, **close)
    assert_close(kept.var(unbiased=False).item(), 1.0, atol=1e-4, rtol=0)  # invariant 15's bound
    assert rollout.advantages[~rollout.response_mask].unique().tolist() == [0.0]


def test_whitening_changes_advantages_and_nothing_else():
    white, bare = collect(moved()), collect(moved(), whiten_advantages="nothing")
    kept = bare.advantages[bare.response_mask]
    expected = (kept - kept.mean()) / kept.std(unbiased=False)
    assert_close(white.advantages[white.response_mask], expected, **close)
    assert torch.equal(white.returns, bare.returns)


def test_micro_batches_do_not_change_a_rollout():
    whole, parts = collect(moved(), mini_batch_size=48), collect(moved(), micro_batch_size=5)
    kept = whole.response_mask
    assert torch.equal(parts.sequences.response_ids, whole.sequences.response_ids)
    for name in ("old_logprobs", "ref_logprobs", "old_values", "advantages", "returns"):
        assert_close(getattr(parts, name)[kept], getattr(whole, name)[kept], atol=1e-4, rtol=0)
    assert_close(parts.scores, whole.scores, **close)


def test_the_score_after_the_end_has_a_value_and_is_no_action():
    rollout = collect(moved(), score_at="after_eos", kl_coef=0.0, whiten_advantages="nothing")
    lengths, width = rollout.response_mask.sum(dim=1), 8
    assert rollout.rewards.shape[1] == width
    at = torch.minimum(lengths, torch.tensor(width - 1))
    assert (rollout.rewards != 0).long().argmax(dim=1).tolist() == at.tolist()
    assert rollout.value_mask.sum(dim=1).tolist() == (at + 1).tolist()
    assert (rollout.advantages[~rollout.response_mask] == 0).all()


def test_rollouts_are_drawn_from_their_seed_alone():
    models = tiny_ppo_models()
    torch.manual_seed(1)
    first = collect(models, seed=1).sequences.response_ids
    torch.manual_seed(2)
    again = collect(models, seed=1).sequences.response_ids
    other = collect(models, seed=2).sequences.response_ids
    assert torch.equal(first, again)
    assert first.tolist() != other.tolist()


def test_rollouts_are_sampled_and_not_greedy():
    rollout = collect(tiny_ppo_models(), [[3, 4]] * 48)
    assert distinct_share(rollout) > 0.5
    assert distinct_share(collect(tiny_ppo_models(), [[3, 4]] * 48, temperature=1e-4)) == 1 / 48


MANY = PROMPTS * 16


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_tokens_are_as_surprising_as_the_entropy_says(temperature):
    rollout = collect(tiny_ppo_models(), MANY, temperature=temperature)
    assert abs(surprisal_z(rollout)) < 4  # invariant 9's bound


# The study in the specification found -19 and +9 for these two faults.
@pytest.mark.parametrize("sampled_at, sign", [(0.7, -1), (1.4, 1)])
def test_a_sampler_with_another_temperature_is_found_by_its_surprisal(
    monkeypatch, sampled_at, sign
):
    right = rollouts.sample_in_batches

    def wrong(*args, temperature, **others):
        return right(*args, temperature=sampled_at, **others)

    monkeypatch.setattr(rollouts, "sample_in_batches", wrong)
    rollout = collect(tiny_ppo_models(), MANY)
    assert sign * surprisal_z(rollout) > 6
    # The ratio of the first mini-batch is blind to it: both sides are the same pass.
    # float32; policy and reference are two copies, whose passes may round differently.
    assert_close(rollout.old_logprobs, rollout.ref_logprobs, atol=1e-5, rtol=0)


def test_a_confident_policy_that_drew_no_rare_token_is_not_suspected():
    models = tiny_ppo_models()
    with torch.no_grad():
        for policy in (models.policy, models.reference):
            policy.lm_head.weight.mul_(30)  # nearly all probability on one token
    rollout = collect(models, [[3, 4]] * 48)
    assert distinct_share(rollout) == 1 / 48
    assert 0 < rollout.entropy[rollout.response_mask].mean() < 0.1
    assert abs(surprisal_z(rollout)) < 4


def test_metrics_are_means_over_responses_and_real_tokens():
    models = moved()
    rollout = collect(models, kl_coef=0.3)
    found = rollout_metrics(rollout, kl_coef=0.3, accelerator=Accelerator())

    kls, surprisals, lengths = [], [], []
    for row in range(48):
        prompt, response = real_ids(rollout, row)
        old = logprobs_by_hand(models.policy, prompt, response)
        kls.append(float((old - logprobs_by_hand(models.reference, prompt, response)).sum()))
        surprisals.extend((-old).tolist())
        lengths.append(len(response))
    mean_kl = sum(kls) / 48
    assert min(lengths) < max(lengths)
    expected = {
        "kl_to_reference": mean_kl,
        "kl_smallest": min(kls),
        "surprisal": sum(surprisals) / sum(lengths),  # over real tokens, not padding
        "response_tokens": sum(lengths) / 48,
        "score": float(rollout.scores.mean()),
        "score_deviation": float(rollout.scores.std(unbiased=False)),
        "reward": float(rollout.scores.mean()) - 0.3 * mean_kl,
        "ended_share": float((rollout.sequences.response_ids == 1).any(dim=1).float().mean()),
        "kl_coef": 0.3,
    }
    for name, number in expected.items():
        assert_close(found[name], number, atol=1e-4, rtol=0, msg=name)  # sums of 8 float32 terms
    assert found["sampler_gap"] < 1e-4


def test_the_entropy_is_that_of_the_distribution_and_counts_real_tokens_only():
    models = tiny_ppo_models()
    rollout = collect(models)
    total = count = 0.0
    for row in range(48):
        prompt, response = real_ids(rollout, row)
        with torch.no_grad():
            logits = models.policy(input_ids=torch.tensor([prompt + response])).logits[0]
        others = logits[len(prompt) - 1 : -1, 1:]  # padding, id 0, is no action
        total += float(torch.distributions.Categorical(logits=others).entropy().sum())
        count += len(response)
    found = rollout_metrics(rollout, kl_coef=0.0, accelerator=Accelerator())["entropy"]
    assert_close(found, total / count, **close)
