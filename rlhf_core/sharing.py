"""Models that share weights, so that no body lies in memory twice."""

import copy
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeVar, cast

import torch
from peft import get_peft_model
from peft.tuners.lora import Linear as AdaptedLinear
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf_core.models import ScalarModel, adapted, merged, zero_head

Model = TypeVar("Model", bound=nn.Module)


class LogitsAndValues(NamedTuple):
    """What one pass of a trunk with two heads gives."""

    logits: Tensor
    values: Tensor
    """[batch, sequence], float32."""


class PolicyAndValue(nn.Module):
    """A policy, and a value head on the states of its trunk; each weight is a parameter once."""

    def __init__(self, policy: PreTrainedModel, value_model: ScalarModel) -> None:
        super().__init__()
        self.policy = policy
        self.value_model = value_model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        *,
        use_cache: bool,
        logits_to_keep: int,
    ) -> LogitsAndValues:
        """Both heads' outputs from one pass of the trunk; arguments are those of the policy."""
        outputs = self.policy(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            output_hidden_states=True,
        )
        return LogitsAndValues(outputs.logits, self.value_model.read(outputs.hidden_states[-1]))


def put_on_trunk(value_model: ScalarModel, policy: PreTrainedModel) -> None:
    """Give `value_model` the body of `policy` in place of its own, and a head of 0 (P16)."""
    give_body(value_model.model, adapted(policy))
    zero_head(value_model)


def give_body(model: PreTrainedModel, other: PreTrainedModel) -> None:
    """Put the body of `other` in place of that of `model`, which keeps its head."""
    setattr(model, other.base_model_prefix, getattr(other, other.base_model_prefix))


def published_value_model(value_model: ScalarModel, policy: PreTrainedModel) -> PreTrainedModel:
    """The value model with its adapter merged, as it is saved; on the policy's trunk with that."""
    if not has_trunk_of(value_model, policy):
        return merged(value_model.model)
    whole = twin(value_model.model)
    give_body(whole, merged(policy))
    return whole


def has_trunk_of(value_model: ScalarModel, policy: PreTrainedModel) -> bool:
    """Whether the value model's body is the policy's own."""
    one, other = adapted(value_model.model), adapted(policy)
    return getattr(one, one.base_model_prefix) is getattr(other, other.base_model_prefix)


def twin(model: Model) -> Model:
    """A module tree of its own over the very same weights and buffers, which costs no memory.

    What is added to one of the two, adapters for instance, is unknown to the other: no switch says
    whose turn it is, so that several can be computed side by side.
    """
    return copy.deepcopy(model, {id(tensor): tensor for tensor in _tensors(model)})


def frozen_twin(policy: PreTrainedModel) -> PreTrainedModel:
    """The reference of a policy that trains adapters: its body as it is, frozen with the policy's.

    All weights of `policy` are frozen in place.
    """
    reference = twin(policy)
    reference.train(mode=False)
    reference.requires_grad_(False)
    return reference


def put_on_backbone(scalar: ScalarModel, policy: PreTrainedModel) -> bool:
    """Give `scalar` the weights of `policy` under its own adapter, frozen, in place of its body.

    Gives whether that is what its weights were merged from; else nothing is changed.
    """
    if scalar.adapter is None:
        return False
    body = policy.base_model_prefix
    model = twin(scalar.model)
    give_body(model, twin(policy))
    on_backbone = cast(PreTrainedModel, get_peft_model(model, scalar.adapter.lora_config()))
    own = dict(on_backbone.named_parameters())
    with torch.no_grad():
        for name, tensor in scalar.adapter.tensors.items():
            own[name].copy_(tensor)
    merged_weights: dict[str, Tensor] = dict(getattr(scalar.model, body).named_parameters())
    effective = _effective_weights(getattr(adapted(on_backbone), body))
    if not _are_close(effective, merged_weights):
        return False
    on_backbone.requires_grad_(False)
    on_backbone.train(mode=scalar.training)
    scalar.model = on_backbone
    return True


def trainable_copy(scalar: ScalarModel, policy: PreTrainedModel) -> ScalarModel:
    """A copy of a model on the backbone of `policy`, with an adapter and a head of its own."""
    copied = copy.deepcopy(scalar, {id(tensor): tensor for tensor in _tensors(policy)})
    for name, weights in copied.named_parameters():
        weights.requires_grad_("lora_" in name or "modules_to_save" in name)
    return copied


def _effective_weights(body: nn.Module) -> dict[str, Tensor]:
    """What each weight of an adapted body comes to, by its name without the adapter."""
    weights: dict[str, Tensor] = {
        name.replace(".base_layer", ""): tensor
        for name, tensor in body.named_parameters()
        if "lora_" not in name
    }
    for name, module in body.named_modules():
        if isinstance(module, AdaptedLinear):
            weights[f"{name}.weight"] = weights[f"{name}.weight"] + module.get_delta_weight(
                "default"
            )
    return weights


def _are_close(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].shape == other[name].shape
        and torch.allclose(one[name], other[name], atol=MERGING_ERROR, rtol=MERGING_ERROR)
        for name in one
    )


MERGING_ERROR = 1e-5
"""How far float32 sums of weight and adapter may lie apart on two machines."""


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()
