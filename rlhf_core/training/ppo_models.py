"""The models of PPO as they start, each body in memory once where adapters are trained."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from peft import TaskType
from torch import nn
from transformers import PreTrainedModel

from rlhf_core.errors import RecipeError
from rlhf_core.models import ScalarModel, frozen_copy, with_lora, zero_head
from rlhf_core.pretrained import load_policy, load_scalar_model, new_scalar_model
from rlhf_core.scorers import Scorer
from rlhf_core.settings.base import LoraSettings
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.sharing import (
    frozen_twin,
    give_body,
    put_on_backbone,
    put_on_trunk,
    trainable_copy,
    twin,
)
from rlhf_core.training.rollouts import PpoModels


def load_models(
    settings: PpoSettings, sft: Path, reward_model: Path | None, scorer: Scorer, *, seed: int
) -> PpoModels:
    """The models: policy and reference from the SFT policy, the others as settings say.

    With adapters, reference and policy share the SFT policy's weights, and so do reward and value
    model where the reward model was trained as an adapter on them; else these two share a body.
    """
    if settings.starts_value_from_reward_model and scorer.own_reading is not None:
        raise RecipeError(
            "ppo.value_init=reward_model: the reward model reads another tokenizer or template "
            "than the policy, so it cannot value the policy's tokens. Set ppo.value_init=sft."
        )
    policy = load_policy(sft)
    if settings.lora is not None:
        return _with_adapters(settings, settings.lora, policy, sft, scorer, seed=seed)
    reference = frozen_copy(policy)
    if settings.algorithm != "ppo":
        return PpoModels(policy, reference, scorer, None)
    if settings.starts_value_from_reward_model:
        assert reward_model is not None, "the settings require one"
        return PpoModels(policy, reference, scorer, load_scalar_model(reward_model))
    value_model = _without_opinion(sft, seed=seed)
    if settings.value_network == "shared_trunk":
        put_on_trunk(value_model, policy)
    return PpoModels(policy, reference, scorer, value_model)


def _without_opinion(sft: Path, *, seed: int) -> ScalarModel:
    """A value model with the SFT policy's body and a head of 0 (P16)."""
    value_model = new_scalar_model(sft, seed=seed)
    zero_head(value_model)
    return value_model


def _with_adapters(
    settings: PpoSettings,
    lora: LoraSettings,
    policy: PreTrainedModel,
    sft: Path,
    scorer: Scorer,
    *,
    seed: int,
) -> PpoModels:
    """All models over as few bodies as can be; twins are taken before anything is added to one."""
    reference = frozen_twin(policy)
    on_backbone = [put_on_backbone(scalar, policy) for scalar in _scalars(scorer)]
    value_model, has_adapter = None, False
    if settings.starts_value_from_reward_model:
        assert scorer.reward_model is not None, "the settings require one"
        first = scorer.reward_model.first
        has_adapter = on_backbone[0]
        value_model = trainable_copy(first, policy) if has_adapter else twin(first)
    elif settings.algorithm == "ppo":
        value_model = _without_opinion(sft, seed=seed)
        give_body(value_model.model, twin(policy))
    torch.manual_seed(seed)  # adapters draw from torch's global generator
    adapted = with_lora(policy, lora, task=TaskType.CAUSAL_LM)
    if value_model is not None and settings.value_network == "shared_trunk":
        put_on_trunk(value_model, adapted)
    elif value_model is not None and not has_adapter:
        value_model = ScalarModel(with_lora(value_model.model, lora, task=TaskType.TOKEN_CLS))
    return PpoModels(adapted, reference, scorer, value_model)


def _scalars(scorer: Scorer) -> list[ScalarModel]:
    """Every model that the scorer reads, that which the value model starts from first."""
    parts = [part for part in (scorer.reward_model, scorer.held_out) if part is not None]
    return [cast(ScalarModel, scalar) for part in parts for scalar in part.models]


def said_of_bodies(models: PpoModels) -> str:
    """One line on how many bodies the models share, and why there are several."""
    bodies = len(set(_bodies(models)))
    if bodies == 1:
        return "all models are adapters on one body in memory"
    return (
        f"the models have {bodies} bodies in memory: the reward model is no adapter on this SFT "
        "policy's weights. Train it with reward_model.lora for one body"
    )


def _bodies(models: PpoModels) -> Iterator[int]:
    """Where the token embeddings of each model lie: adapters leave them alone."""
    wholes: list[nn.Module] = [models.policy, models.reference]
    wholes += [scalar.model for scalar in _scalars(models.scorer)]
    if models.value_model is not None:
        wholes.append(models.value_model.model)
    for whole in wholes:
        embeddings = cast(nn.Embedding, cast(PreTrainedModel, whole).get_input_embeddings())
        yield embeddings.weight.data_ptr()
