"""Models on one backbone: the same numbers as models of their own, and one body in memory."""

import copy

import pytest
import torch
from peft import TaskType
from torch.testing import assert_close

from rlhf_core.adapters import ADAPTER, adapter_of, read_adapter, save_adapter
from rlhf_core.models import (
    ScalarModel,
    disable_dropout,
    merge_adapter,
    merged,
    weights_digest,
    with_lora,
)
from rlhf_core.pretrained import load_scalar_model, save_scalar_model
from rlhf_core.settings.base import LoraSettings
from rlhf_core.sharing import frozen_twin, put_on_backbone, trainable_copy, twin
from tests.tiny_models import tiny_policy, tiny_scalar_model

IDS = torch.tensor([[3, 4, 5, 6, 1], [7, 3, 3, 8, 9]])
ALL = torch.ones_like(IDS).bool()
LORA = LoraSettings(rank=2)


def reward_model_of(policy, *, lora=LORA):
    """A reward model whose adapter was trained on the policy's body, merged with it kept beside."""
    scalar = tiny_scalar_model()
    scalar.model.model.load_state_dict(policy.model.state_dict())
    scalar.model = with_lora(scalar.model, lora, task=TaskType.TOKEN_CLS)
    with torch.no_grad():
        for weights in scalar.model.parameters():
            if weights.requires_grad:
                weights.normal_(std=0.2)
    before = scalar(IDS, ALL)
    merge_adapter(scalar)
    assert_close(scalar(IDS, ALL), before, atol=1e-4, rtol=1e-4)
    return scalar.eval().requires_grad_(False)


def pointers(module):
    return {weights.data_ptr() for weights in module.parameters()}


def test_a_twin_has_the_same_tensors_and_modules_of_its_own():
    policy = tiny_policy(tie_word_embeddings=True)
    other = twin(policy)
    assert other is not policy
    assert pointers(other) == pointers(policy)
    assert other.lm_head.weight is other.model.embed_tokens.weight
    with_lora(other, LORA, task=TaskType.CAUSAL_LM)
    assert not any("lora" in name for name, _ in policy.named_modules())


def test_a_reward_model_on_the_backbone_says_what_its_merged_weights_say():
    policy = tiny_policy()
    scalar = reward_model_of(policy)
    expected, own = scalar(IDS, ALL), pointers(scalar)
    assert put_on_backbone(scalar, policy)
    assert_close(scalar(IDS, ALL), expected, atol=1e-4, rtol=1e-4)  # sums in another order
    shared = pointers(scalar) & pointers(policy.model)
    assert shared == pointers(policy.model)
    assert not pointers(scalar.model.get_base_model().model) & own
    assert not any(weights.requires_grad for weights in scalar.parameters())


def test_the_value_model_copies_adapter_and_head_and_shares_the_body():
    policy = tiny_policy()
    scalar = reward_model_of(policy)
    put_on_backbone(scalar, policy)
    before = weights_digest(scalar), weights_digest(policy)
    value_model = trainable_copy(scalar, policy)
    trained = {name for name, weights in value_model.named_parameters() if weights.requires_grad}
    assert all("lora_" in name or "score.modules_to_save" in name for name in trained)
    assert any("score" in name for name in trained)
    assert_close(value_model(IDS, ALL), scalar(IDS, ALL), atol=0, rtol=0)
    assert pointers(policy.model) <= pointers(value_model)

    value_model(IDS, ALL).square().sum().backward()
    torch.optim.SGD((w for w in value_model.parameters() if w.requires_grad), lr=0.1).step()
    assert not torch.equal(value_model(IDS, ALL), scalar(IDS, ALL))
    assert (weights_digest(scalar), weights_digest(policy)) == before


def test_training_on_the_backbone_is_training_on_a_copy_of_it():
    policy = tiny_policy()
    scalar = reward_model_of(policy)
    put_on_backbone(scalar, policy)

    def trained(value_model):
        weights = [w for w in value_model.parameters() if w.requires_grad]
        optimizer = torch.optim.Adam(weights, lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            (value_model(IDS, ALL) - 1).square().mean().backward()
            optimizer.step()
        return value_model(IDS, ALL)

    shared, alone = (trainable_copy(scalar, policy) for _ in range(2))
    alone = copy.deepcopy(alone)
    assert not pointers(alone) & pointers(policy)
    assert_close(trained(shared), trained(alone), atol=0, rtol=0)


def test_a_reference_on_the_backbone_is_the_policy_without_its_adapter():
    policy = tiny_policy()
    disable_dropout(policy)
    reference = frozen_twin(policy)
    expected, digest = policy(IDS).logits, weights_digest(reference)
    adapted = with_lora(policy, LORA, task=TaskType.CAUSAL_LM)
    with torch.no_grad():
        for name, weights in adapted.named_parameters():
            if "lora_B" in name:
                weights.normal_()
    assert not torch.allclose(adapted(IDS).logits, expected)
    assert torch.equal(reference(IDS).logits, expected)
    adapted(IDS).logits.square().sum().backward()
    assert all(weights.grad is None for weights in reference.parameters())
    assert weights_digest(reference) == digest
    assert pointers(reference) <= pointers(adapted)


def test_an_error_within_one_model_leaves_the_others_as_they_are():
    policy = tiny_policy()
    scalar = reward_model_of(policy)
    reference = frozen_twin(policy)
    put_on_backbone(scalar, policy)
    adapted = with_lora(policy, LORA, task=TaskType.CAUSAL_LM)
    before = scalar(IDS, ALL), reference(IDS).logits
    with pytest.raises(IndexError):
        adapted(torch.tensor([[99]]))
    assert torch.equal(scalar(IDS, ALL), before[0])
    assert torch.equal(reference(IDS).logits, before[1])


def test_merging_a_copy_leaves_the_backbone_alone():
    policy = tiny_policy()
    digest = weights_digest(policy)
    adapted = with_lora(twin(policy), LORA, task=TaskType.CAUSAL_LM)
    with torch.no_grad():
        for name, weights in adapted.named_parameters():
            if "lora_B" in name:
                weights.normal_()
    expected = adapted(IDS).logits
    assert_close(merged(copy.deepcopy(adapted))(IDS).logits, expected, atol=1e-4, rtol=1e-4)
    assert weights_digest(policy) == digest


@pytest.mark.parametrize("change", ["another backbone", "no adapter", "trained on"])
def test_a_reward_model_that_is_not_of_this_backbone_keeps_its_body(change):
    policy = tiny_policy()
    scalar = reward_model_of(policy)
    if change == "no adapter":
        scalar.adapter = None
    if change == "trained on":
        with torch.no_grad():
            scalar.model.model.layers[1].mlp.up_proj.weight[0, 0] += 0.01
    body, expected = pointers(scalar), scalar(IDS, ALL)
    assert not put_on_backbone(scalar, tiny_policy(seed=8) if "backbone" in change else policy)
    assert pointers(scalar) == body
    assert torch.equal(scalar(IDS, ALL), expected)


def test_an_adapter_travels_with_the_merged_weights(tmp_path):
    policy = tiny_policy()
    scalar = reward_model_of(policy)
    for name in ("one", "two"):
        save_scalar_model(scalar, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one" / ADAPTER).iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors"]
    for file in files:
        one, two = ((tmp_path / name / ADAPTER / file).read_bytes() for name in ("one", "two"))
        assert one == two
        assert str(tmp_path).encode() not in one
    loaded = load_scalar_model(tmp_path / "one").eval()
    assert_close(loaded(IDS, ALL), scalar(IDS, ALL), atol=1e-5, rtol=1e-5)
    assert put_on_backbone(loaded, policy)
    assert_close(loaded(IDS, ALL), scalar(IDS, ALL), atol=1e-4, rtol=1e-4)


def test_a_model_without_an_adapter_is_saved_without_one(tmp_path):
    save_scalar_model(tiny_scalar_model(), tmp_path / "plain")
    assert load_scalar_model(tmp_path / "plain").adapter is None
    assert adapter_of(tiny_policy()) is None
    assert read_adapter(tmp_path / "nowhere") is None
    assert isinstance(load_scalar_model(tmp_path / "plain"), ScalarModel)


def test_saving_makes_a_folder_that_reads_back(tmp_path):
    scalar = tiny_scalar_model()
    scalar.model = with_lora(scalar.model, LORA, task=TaskType.TOKEN_CLS)
    adapter = adapter_of(scalar.model)
    assert adapter is not None
    save_adapter(adapter, tmp_path / ADAPTER)
    again = read_adapter(tmp_path / ADAPTER)
    assert again is not None
    assert again.config == adapter.config
    assert again.tensors.keys() == adapter.tensors.keys()
    assert all("lora_" in name for name in again.tensors)
