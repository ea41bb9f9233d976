import copy
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch.testing import assert_close

from rlhf_core.models import weights_digest
from rlhf_core.pretrained import load_policy, load_scalar_model
from rlhf_core.report import ignore
from rlhf_core.reward_models import load_reward_model
from rlhf_core.scorers import Scorer
from rlhf_core.settings.base import LoraSettings
from rlhf_core.settings.reward_model import RewardModelSettings
from rlhf_core.stages.reward_model import make_reward_model
from rlhf_core.training.ppo import train_ppo
from rlhf_core.training.ppo_models import load_models, said_of_bodies
from tests.stages.ppo_runs import QUICK, make
from tests.tiny_models import SPECIAL, tiny_scorer


@pytest.fixture(scope="module")
def adapter_reward_model(chain, tmp_path_factory):
    """A reward model that was trained as an adapter on the SFT policy's body."""
    folder = tmp_path_factory.mktemp("adapter") / "reward_model"
    folder.mkdir()
    make_reward_model(
        RewardModelSettings(epochs=2, learning_rate=0.01, batch_size=16, lora=LoraSettings(rank=4)),
        chain.model,
        data=chain.data,
        sft=chain.sft,
        out_dir=folder,
        report=ignore,
        seed=1,
    )
    return folder


def with_adapters(chain, reward_model, **changes):
    settings = QUICK.model_copy(update={"lora": LoraSettings(rank=2), **changes})
    scorer = Scorer(load_reward_model(reward_model))
    return settings, load_models(settings, chain.sft, reward_model, scorer, seed=1)


def bodies(models):
    parts = [models.policy, models.reference, models.scorer.reward_model.first.model]
    parts += [] if models.value_model is None else [models.value_model.model]
    return {part.get_input_embeddings().weight.data_ptr() for part in parts}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"value_init": "sft"},
        {"value_network": "shared_trunk"},
        {"algorithm": "grpo", "responses_per_prompt": 4},
    ],
)
def test_four_adapters_share_one_body(chain, adapter_reward_model, changes):
    _, models = with_adapters(chain, adapter_reward_model, **changes)
    assert len(bodies(models)) == 1
    assert said_of_bodies(models) == "all models are adapters on one body in memory"
    own = {weights.data_ptr() for weights in models.reference.parameters()}
    added = {
        name: weights.numel()
        for part in models.by_name().values()
        for name, weights in part.named_parameters()
        if weights.data_ptr() not in own
    }
    assert all("lora_" in name or "score" in name for name in added)


def test_a_reward_model_trained_in_full_keeps_its_body_and_the_value_model_shares_it(chain):
    _, models = with_adapters(chain, chain.reward_model)
    assert len(bodies(models)) == 2
    assert "2 bodies in memory: the reward model is no adapter" in said_of_bodies(models)
    first = models.scorer.reward_model.first.model
    own = {weights.data_ptr() for weights in first.model.parameters()}
    assert own <= {weights.data_ptr() for weights in models.value_model.parameters()}


@pytest.mark.parametrize("reward_model", ["adapter", "in full"])
def test_training_on_shared_bodies_is_training_on_copies(chain, adapter_reward_model, reward_model):
    folder = adapter_reward_model if reward_model == "adapter" else chain.reward_model

    def trained(arrange):
        settings, models = with_adapters(chain, folder)
        models = arrange(models)
        frozen = [weights_digest(part) for part in (models.reference, models.scorer)]
        metrics = train_ppo(
            models,
            [[3, 4], [5, 6], [7, 8]],
            settings,
            ignore,
            special=SPECIAL,
            max_response_tokens=8,
            missing_eos_score=-1.0,
            seed=1,
            accelerator=Accelerator(),
        )
        assert [weights_digest(part) for part in (models.reference, models.scorer)] == frozen
        moved = [weights for weights in models.policy.parameters() if weights.requires_grad]
        moved += [weights for weights in models.value_model.parameters() if weights.requires_grad]
        return metrics, moved

    def copied(models):
        return replace(
            models,
            **{name: copy.deepcopy(getattr(models, name)) for name in models.by_name()},
        )

    (shared, one), (apart, two) = trained(lambda models: models), trained(copied)
    # A matrix at another address is multiplied in another order.
    assert_close(shared["score"], apart["score"], atol=1e-4, rtol=1e-4)
    assert_close(shared["kl_to_reference"], apart["kl_to_reference"], atol=1e-4, rtol=1e-3)
    for own, other in zip(one, two, strict=True):
        assert_close(own, other, atol=1e-4, rtol=1e-3)


def test_what_adapters_on_one_body_publish_says_what_they_said(
    chain, adapter_reward_model, tmp_path
):
    make(chain, tmp_path / "ppo", reward_model=adapter_reward_model, lora=LoraSettings(rank=2))
    before, after = (load_policy(path).state_dict() for path in (chain.sft, tmp_path / "ppo"))
    q_proj = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(before[q_proj], after[q_proj])
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    own = load_scalar_model(tmp_path / "ppo" / "value_model").model.state_dict()
    start = load_scalar_model(adapter_reward_model).model.state_dict()
    # The value model went on from the reward model's adapter, not from the policy's.
    assert_close(own[q_proj], start[q_proj], atol=0.05, rtol=0)
    assert not torch.equal(own[q_proj], start[q_proj])
    assert (start[q_proj] - before[q_proj]).abs().max() > 0.05


def test_a_value_model_from_the_policy_starts_without_an_opinion(chain):
    models = load_models(
        QUICK.model_copy(update={"value_init": "sft"}),
        chain.sft,
        chain.reward_model,
        tiny_scorer(),
        seed=1,
    )
    ids = torch.tensor([[3, 4, 5]])
    assert models.value_model(ids, ids > 0).tolist() == [[0.0, 0.0, 0.0]]


def test_policy_and_reference_start_alike_and_reward_model_and_reference_are_frozen(chain):
    scorer = Scorer(load_reward_model(chain.reward_model))
    models = load_models(QUICK, chain.sft, chain.reward_model, scorer, seed=1)
    for frozen in (models.reference, models.scorer):
        assert not any(parameter.requires_grad for parameter in frozen.parameters())
    for name, weights in models.policy.state_dict().items():
        assert_close(models.reference.state_dict()[name], weights, atol=0, rtol=0)
    assert models.value_model is not models.scorer.reward_model.first
