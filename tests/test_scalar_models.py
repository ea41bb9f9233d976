import pytest
import torch
from peft import TaskType
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel

from rlhf_core.batches import SharedPrompts, join, pad_left, pad_right
from rlhf_core.models import (
    merged,
    weights_digest,
    with_lora,
    zero_head,
)
from rlhf_core.pretrained import load_scalar_model, new_scalar_model, save_model
from rlhf_core.settings.base import LoraSettings
from tests.tiny_models import END, PAD, tiny_policy, tiny_scalar_model

IDS = torch.tensor([[3, 4, 5, 6, END], [7, 3, 3, 8, 9]])
ALL = torch.ones_like(IDS).bool()


def logits(policy, ids=IDS):
    with torch.no_grad():
        return policy(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


# Deviation of the head's weights, 1 / sqrt(d + 1): the published vector's "head_std".
@pytest.mark.parametrize("width, deviation", [(512, 0.0441511), (1024, 0.0312348)])
def test_a_new_head_has_the_published_deviation_and_bias_0(tmp_path, width, deviation):
    config = {"n_embd": width, "n_layer": 0, "n_head": 2, "n_positions": 8, "vocab_size": 12}
    GPT2LMHeadModel(GPT2Config(**config)).save_pretrained(tmp_path)

    head = new_scalar_model(tmp_path, seed=0).head

    # The deviation of n normal numbers is known to 1 / sqrt(2 n); four of these are allowed. The
    # other published deviation, 1 / (d + 1), is more than twenty times smaller.
    assert_close(head.weight.std().item(), deviation, rtol=4 / (2 * width) ** 0.5, atol=0)
    assert head.bias.tolist() == [0.0]


def test_a_new_scalar_model_has_the_policys_body_and_a_head_from_its_seed(tmp_path):
    policy = tiny_policy()
    policy.save_pretrained(tmp_path)

    one, same, other = (new_scalar_model(tmp_path, seed=seed) for seed in (3, 3, 4))

    for name, weights in policy.model.state_dict().items():
        assert_close(one.model.model.state_dict()[name], weights, rtol=0, atol=0)
    assert weights_digest(one) == weights_digest(same) != weights_digest(other)


def test_a_zero_head_says_0_of_everything():
    model = tiny_scalar_model()
    zero_head(model)
    assert model(IDS, ALL).tolist() == [[0.0] * 5] * 2


def test_a_scalar_model_is_the_head_over_the_last_normalized_state():
    model = tiny_scalar_model()
    with torch.no_grad():
        hidden = model.model.model(input_ids=IDS).last_hidden_state
        expected = (hidden * model.model.score.weight[0]).sum(-1) + model.model.score.bias
        # One dot product in another order of summation.
        assert_close(model(IDS, ALL), expected, atol=1e-5, rtol=0)


def test_a_scalar_model_is_saved_and_loaded_with_its_bias(tmp_path):
    model = tiny_scalar_model()
    with torch.no_grad():
        model.head.bias.fill_(-3.25)
        before = model(IDS, ALL)
    save_model(model.model, tmp_path)

    loaded = load_scalar_model(tmp_path)

    assert loaded.head.bias.tolist() == [-3.25]
    assert_close(loaded(IDS, ALL).detach(), before, atol=0, rtol=0)
    assert weights_digest(loaded) == weights_digest(model)


@pytest.mark.parametrize("kind", ["policy", "reward model"])
def test_an_adapter_trains_alone_and_is_merged_into_the_same_function(kind):
    is_policy = kind == "policy"
    bare = tiny_policy() if is_policy else tiny_scalar_model().model
    task = TaskType.CAUSAL_LM if is_policy else TaskType.TOKEN_CLS
    frozen = {name: weights.clone() for name, weights in bare.named_parameters()}
    adapted = with_lora(bare, LoraSettings(rank=2, alpha=4), task=task)
    trainable = [(n, p) for n, p in adapted.named_parameters() if p.requires_grad]

    assert all("lora_" in name or "score" in name for name, _ in trainable)
    assert any("score" in name for name, _ in trainable) == (not is_policy)
    # Rank 2 in each of 7 matrices a layer: 2 * (inputs + outputs), and 33 numbers in the head.
    per_layer = 4 * 2 * (32 + 32) + 3 * 2 * (32 + 48)
    assert sum(p.numel() for _, p in trainable) == 2 * per_layer + (0 if is_policy else 33)

    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in trainable:
            if "lora_" in name:
                parameter.normal_(std=0.2)
    with_adapter = logits(adapted)
    whole = merged(adapted)

    # Merging adds the product of the matrices first and multiplies by the input after.
    assert_close(logits(whole), with_adapter, atol=1e-4, rtol=0)
    moved = {n for n, p in whole.named_parameters() if not torch.equal(p, frozen[n])}
    assert moved == {name for name in frozen if "proj" in name}


def test_a_model_without_an_adapter_is_already_merged():
    policy = tiny_policy()
    assert merged(policy) is policy


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_shared_prompts_change_neither_states_nor_gradients(family, tmp_path):
    prompts, responses = [[3, 4, 5], [6], [7, 8]], [[7, END], [8, 9, 10, END], [3, 3, END]]
    owners = [1, 0, 1]
    if family == "llama":
        model = tiny_scalar_model()
    else:  # learnt positions, and biases
        config = GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=16, vocab_size=12)
        torch.manual_seed(1)
        GPT2LMHeadModel(config).save_pretrained(tmp_path)
        model = new_scalar_model(tmp_path, seed=0)
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    shared = SharedPrompts(
        *pad_left(prompts, PAD), *pad_right(responses, PAD), prompt_index=torch.tensor(owners)
    )
    whole = join([prompts[owner] for owner in owners], responses, PAD)
    mask = whole.response_mask
    found = model.states_after_prompts(shared)
    expected = model.hidden_states(whole.input_ids, whole.attention_mask)
    after = whole.prompt_ids.shape[1]

    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert_close(one[mask], other[:, after:][mask], atol=1e-5, rtol=1e-4)  # float32 sums
    numbers = torch.randn(found[-1].shape, generator=torch.Generator().manual_seed(1))
    numbers = numbers.masked_fill(~mask.unsqueeze(-1), 0.0)
    gradients = [
        torch.autograd.grad((states * numbers).sum(), weights, allow_unused=True)
        for states in (found[-1], expected[-1][:, after:])
    ]
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert_close(one, other, atol=1e-4, rtol=1e-4)  # sums over all tokens
