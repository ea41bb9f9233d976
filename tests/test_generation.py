from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from transformers import LlamaForCausalLM

from rlhf_core.batches import Encoder, Sequences, join
from rlhf_core.generation import response_distribution, sample_responses
from rlhf_core.maths.logprobs import taken_logprobs
from rlhf_core.models import end_token_ids
from rlhf_core.pretrained import load_policy, load_tokenizer
from rlhf_core.settings.model import ModelSettings
from tests.tiny_models import END, PAD, STORIES, VOCABULARY, tiny_policy

PROMPTS = [[3, 4, 5, 6], [7], [8, 9]]
RESPONSES = [[5, 1], [6, 7, 8, 9, 3], [4, 10, 1]]

close = {"atol": 1e-5, "rtol": 0.0}  # float32 sums in another order


def logprobs(policy, batch, *, temperature=1.0, pad_token_id=PAD):
    with torch.no_grad():
        log_probs = response_distribution(
            policy, batch, pad_token_id=pad_token_id, temperature=temperature
        )
    return taken_logprobs(log_probs, batch.response_ids)


def sample(policy, prompts, *, seed=0, temperature=1.0, max_tokens=8, ends=(END,)):
    return sample_responses(
        policy,
        prompts,
        end_token_ids=list(ends),
        pad_token_id=PAD,
        max_tokens=max_tokens,
        temperature=temperature,
        generator=torch.Generator().manual_seed(seed),
    )


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_response_token_is_predicted_from_the_column_before_it(temperature):
    policy = tiny_policy()
    found = logprobs(policy, join(PROMPTS, RESPONSES, PAD), temperature=temperature)

    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        # One row, no padding, no mask: logits[P - 1 + t] / T over all ids but padding's.
        with torch.no_grad():
            logits = policy(input_ids=torch.tensor([prompt + response])).logits[0] / temperature
        logits[:, PAD] = -torch.inf
        for index, token in enumerate(response):
            before = len(prompt) - 1 + index
            expected = logits[before].log_softmax(dim=-1)[token]
            assert_close(found[row, index], expected, **close)


def test_pads_on_the_left_change_no_log_probability():
    policy = tiny_policy()
    bare = logprobs(policy, join(PROMPTS, RESPONSES, PAD))
    # A long fourth prompt pushes 13 more pads in front of each of the others.
    padded = logprobs(policy, join([*PROMPTS, [3] * 17], [*RESPONSES, [4, 1]], PAD))
    kept = join(PROMPTS, RESPONSES, PAD).response_mask
    assert_close(padded[:3][kept], bare[kept], **close)


def test_pads_after_the_end_change_no_log_probability():
    policy = tiny_policy()
    bare = logprobs(policy, join(PROMPTS[:1], RESPONSES[:1], PAD))
    padded = logprobs(policy, join(PROMPTS[:1] * 2, [RESPONSES[0], [3] * 9], PAD))
    assert_close(padded[:1, :2], bare, atol=1e-6, rtol=0)  # causal attention: the same sums


def test_whatever_stands_in_the_padding_changes_no_log_probability():
    policy = tiny_policy()
    batch = join(PROMPTS, RESPONSES, PAD)
    junk = Sequences(
        batch.prompt_ids.masked_fill(~batch.prompt_mask, 9),
        batch.prompt_mask,
        batch.response_ids.masked_fill(~batch.response_mask, 7),
        batch.response_mask,
    )
    kept = batch.response_mask
    assert torch.equal(logprobs(policy, junk)[kept], logprobs(policy, batch)[kept])


def test_a_padding_id_outside_the_models_vocabulary_is_harmless_to_supervised_training():
    policy, outside = tiny_policy(), 999
    batch = join(PROMPTS, RESPONSES, outside)
    shown = Sequences(
        batch.prompt_ids,
        batch.prompt_mask,
        batch.response_ids.masked_fill(~batch.response_mask, 0),
        batch.response_mask,
    )
    with torch.no_grad():
        found = response_distribution(policy, shown, pad_token_id=None, temperature=1.0)
        known = response_distribution(
            policy, join(PROMPTS, RESPONSES, PAD), pad_token_id=None, temperature=1.0
        )
    assert torch.equal(found, known)


def test_padding_is_no_action_and_the_others_share_its_probability():
    policy = tiny_policy()
    with torch.no_grad():
        policy.lm_head.weight[PAD] = 50 * policy.lm_head.weight[3]  # as likely as can be
    batch = join(PROMPTS, RESPONSES, PAD)
    with torch.no_grad():
        log_probs = response_distribution(policy, batch, pad_token_id=PAD, temperature=0.7)
    assert log_probs[..., PAD].exp().max() == 0
    assert_close(log_probs.exp().sum(dim=-1), torch.ones(3, 5), **close)
    assert torch.isfinite((log_probs.exp() * log_probs).sum(dim=-1)).all()  # the entropy

    sampled = sample(policy, PROMPTS * 20)
    kept = sampled.sequences.response_ids[sampled.sequences.response_mask]
    assert (kept != PAD).all()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_sampler_with_its_cache_agrees_with_a_whole_pass(temperature):
    policy = tiny_policy()
    sampled = sample(policy, PROMPTS * 10, temperature=temperature)
    kept = sampled.sequences.response_mask
    whole = logprobs(policy, sampled.sequences, temperature=temperature)
    lengths = kept.sum(dim=1)
    assert lengths.min() < lengths.max()  # rows have left the batch on the way
    assert_close(sampled.logprobs[kept], whole[kept], atol=1e-4, rtol=0)  # invariant 7's bound


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_first_token_is_drawn_from_the_softmax_of_the_logits(temperature):
    policy = tiny_policy()
    draws = 20_000
    sampled = sample(policy, [[3, 4, 5]] * draws, temperature=temperature, max_tokens=1)
    counts = torch.bincount(sampled.sequences.response_ids[:, 0], minlength=VOCABULARY)

    def chi_square(at):
        with torch.no_grad():
            logits = policy(input_ids=torch.tensor([[3, 4, 5]])).logits[0, -1] / at
        logits[PAD] = -torch.inf
        expected = draws * logits.softmax(dim=-1)
        common = expected >= 5  # the usual condition of the test
        rest = torch.stack([counts[~common].sum(), expected[~common].sum()])
        found = torch.cat([counts[common], rest[:1]])
        wanted = torch.cat([expected[common], rest[1:].clamp(min=1e-9)])
        return float(((found - wanted) ** 2 / wanted)[wanted > 1].sum())

    # 29.6 is the 99.9 % quantile with 10 degrees of freedom, one less than the 11 possible tokens.
    assert chi_square(temperature) < 29.6
    assert chi_square(0.8) > 100  # and a temperature a little off is told apart


def test_at_temperature_0_the_sampler_is_the_librarys_greedy_search():
    policy = tiny_policy()
    sampled = sample(policy, PROMPTS, temperature=0.0)
    for row, prompt in enumerate(PROMPTS):
        expected = policy.generate(
            torch.tensor([prompt]),
            do_sample=False,
            max_new_tokens=8,
            eos_token_id=END,
            pad_token_id=PAD,
            suppress_tokens=[PAD],
        )[0, len(prompt) :]
        found = sampled.sequences.response_ids[row][sampled.sequences.response_mask[row]]
        assert found.tolist() == expected.tolist()


def test_a_response_stops_at_its_first_end_and_is_padded_after():
    policy = tiny_policy()
    sequences = sample(policy, PROMPTS * 40, ends=(END, 5), max_tokens=12).sequences
    lengths = set()
    for ids, mask in zip(sequences.response_ids.tolist(), sequences.response_mask, strict=True):
        ends = [index for index, token in enumerate(ids) if token in (END, 5)]
        length = ends[0] + 1 if ends else len(ids)
        assert mask.tolist() == [True] * length + [False] * (len(ids) - length)
        assert set(ids[length:]) <= {PAD}
        lengths.add(length)
    assert len(lengths) > 3


def test_a_batch_is_no_wider_than_its_longest_response():
    policy = tiny_policy()
    sequences = sample(policy, PROMPTS, ends=range(1, VOCABULARY)).sequences
    assert sequences.response_ids.shape == (3, 1)
    assert sequences.response_mask.all()


def test_all_draws_come_from_the_generator():
    policy = tiny_policy()
    torch.manual_seed(1)
    first = sample(policy, PROMPTS * 10, seed=4).sequences.response_ids
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    again = sample(policy, PROMPTS * 10, seed=4).sequences.response_ids
    other = sample(policy, PROMPTS * 10, seed=5).sequences.response_ids

    assert torch.equal(first, again)
    assert first.tolist() != other.tolist()


def test_equal_prompts_of_one_batch_get_different_responses():
    sampled = sample(tiny_policy(), [[3, 4]] * 64)
    assert len(torch.unique(sampled.sequences.response_ids, dim=0)) > 32  # greedy would give 1


def test_only_the_columns_that_are_needed_become_logits():
    asked = []

    class Watched(torch.nn.Module):
        def forward(self, input_ids, attention_mask, position_ids, use_cache, logits_to_keep):
            asked.append(logits_to_keep)
            logits = torch.zeros(*input_ids.shape, VOCABULARY)
            return SimpleNamespace(logits=logits[:, -logits_to_keep:])

    logprobs(Watched(), join(PROMPTS, RESPONSES, PAD))
    assert asked == [6]  # 5 response columns and the one before them


needs_stories = pytest.mark.skipif(
    not STORIES.is_dir(), reason="the folder of public data beside the repository is not here"
)


@needs_stories
def test_a_real_models_greedy_stories_are_the_librarys():
    policy, tokenizer = load_policy(STORIES), load_tokenizer(STORIES)
    assert isinstance(policy, LlamaForCausalLM)
    encoder = Encoder(tokenizer, ModelSettings(base=str(STORIES)))
    prompts = encoder.prompts(["Once upon a time", "Lily found a", "The dog"])
    ends = end_token_ids(policy.generation_config, tokenizer)
    assert ends == [2, 1]  # the tokenizer's own, and the one that the stories ended with
    sampled = sample_responses(
        policy,
        prompts,
        end_token_ids=ends,
        pad_token_id=encoder.pad_token_id,
        max_tokens=40,
        temperature=0.0,
        generator=torch.Generator(),
    ).sequences
    for row, prompt in enumerate(prompts):
        expected = policy.generate(
            torch.tensor([prompt]),
            do_sample=False,
            max_new_tokens=40,
            eos_token_id=ends,
            pad_token_id=0,
        )[0, len(prompt) :]
        found = sampled.response_ids[row][sampled.response_mask[row]]
        assert found.tolist() == expected.tolist()
