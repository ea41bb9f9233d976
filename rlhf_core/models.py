"""The models as values: made from nothing, with a scalar per token, with adapters, frozen.

A policy is a causal language model of transformers; the reward model and the value model are a
`ScalarModel`. `rlhf_core.pretrained` reads them from folders and writes them.
"""

import copy
import hashlib
from collections.abc import Mapping
from typing import cast

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlhf_core.adapters import Adapter, adapter_of
from rlhf_core.batches import SharedPrompts
from rlhf_core.maths.masking import position_ids
from rlhf_core.settings.base import LoraSettings
from rlhf_core.settings.model import ScratchModelSettings


def fit_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Grow the embeddings of `model` in place until every token of the tokenizer has a row."""
    embeddings = cast(nn.Embedding, model.get_input_embeddings())
    if len(tokenizer) > embeddings.num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id


def new_policy(
    settings: ScratchModelSettings,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_tokens: int,
    seed: int,
) -> PreTrainedModel:
    """A Llama-architecture model with random weights, drawn from `seed` alone.

    Each layer's key projection starts as a copy of its query projection: a head then begins by
    attending to tokens like its own, from which comparing a response with its prompt is learnt in
    fewer steps.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=max_tokens,
        tie_word_embeddings=True,
        initializer_range=settings.initializer_range,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in policy.model.layers:
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
    return policy


def end_token_ids(
    generation: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    """Ids that end a response: the tokenizer's own first, then those the policy was trained with.

    `generation` is the policy's generation config.
    """
    trained = getattr(generation, "eos_token_id", None)
    others = trained if isinstance(trained, list) else [] if trained is None else [trained]
    own = cast(int, tokenizer.eos_token_id)
    return [own, *(token for token in others if token not in (own, tokenizer.pad_token_id))]


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout of `model` to 0 in place, in train mode too (detail P20)."""
    for module in model.modules():
        for name in dropout_rates(module):
            setattr(module, name, 0.0)
        config = getattr(module, "config", None)
        for name in [] if config is None else dropout_rates(config):
            setattr(config, name, 0.0)


def dropout_rates(owner: object) -> list[str]:
    """Names of the attributes that are a dropout's rate above 0, of one module or configuration.

    Attention keeps its rate as a plain number: it is no module of its own.
    """
    is_dropout = isinstance(owner, nn.Dropout)
    return [
        name
        for name, rate in vars(owner).items()
        if isinstance(rate, float) and rate > 0 and ("drop" in name or (is_dropout and name == "p"))
    ]


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that takes no gradient: the reference of PPO."""
    copied = copy.deepcopy(model)
    copied.train(mode=False)
    copied.requires_grad_(False)
    return copied


class ScalarModel(nn.Module):
    """A language model with a linear head that gives one float32 number per position.

    The reward model reads it at the end token, the value model before every response token. It
    wraps transformers' token-classification model with one label, so that its folder loads with
    `AutoModelForTokenClassification` too.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.adapter: Adapter | None = None
        """What was merged into the body, where it was trained with an adapter."""
        disable_dropout(model)

    @property
    def head(self) -> nn.Linear:
        """The layer d -> 1."""
        layers = [module for module in self.model.modules() if _is_head(module)]
        return cast(nn.Linear, layers[-1])

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """One number per column: [batch, sequence], float32 (detail R12).

        `attention_mask` is bool, True at real tokens; padding may stand on either side.
        """
        return self.read(self.hidden_states(input_ids, attention_mask)[-1])

    def read(self, hidden: Tensor) -> Tensor:
        """The head's number for each hidden state: [batch, sequence, d] -> [batch, sequence]."""
        with torch.autocast(hidden.device.type, enabled=False):
            return cast(Tensor, self.head(hidden.float())).squeeze(-1)

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """What the embedding and each layer give, the last after the final norm."""
        states = self._body(
            input_ids=input_ids.masked_fill(~attention_mask, 0),
            attention_mask=attention_mask,
            position_ids=position_ids(attention_mask),
            use_cache=False,
            output_hidden_states=True,
        ).hidden_states
        return cast(tuple[Tensor, ...], states)

    def states_after_prompts(self, batch: SharedPrompts) -> tuple[Tensor, ...]:
        """The hidden states of every response token, each [batch, response, d].

        Each prompt is computed once, and its keys and values serve all responses that follow it:
        they are the states of `hidden_states` at those columns, and so is their gradient.
        """
        body, chosen = self._body, batch.prompt_index
        cache = DynamicCache(config=body.config)
        body(
            input_ids=batch.prompt_ids.masked_fill(~batch.prompt_mask, 0),
            attention_mask=batch.prompt_mask,
            position_ids=position_ids(batch.prompt_mask),
            past_key_values=cache,
            use_cache=True,
        )
        cache.batch_select_indices(chosen)
        mask = torch.cat([batch.prompt_mask[chosen], batch.response_mask], dim=1)
        states = body(
            input_ids=batch.response_ids.masked_fill(~batch.response_mask, 0),
            attention_mask=mask,
            position_ids=position_ids(mask)[:, batch.prompt_ids.shape[1] :],
            past_key_values=cache,
            use_cache=True,
            output_hidden_states=True,
        ).hidden_states
        return cast(tuple[Tensor, ...], states)

    @property
    def _body(self) -> PreTrainedModel:
        whole = adapted(self.model)
        return cast(PreTrainedModel, getattr(whole, whole.base_model_prefix))


def adapted(model: nn.Module) -> PreTrainedModel:
    """The model whose modules a PeftModel has adapted, or the model itself without one."""
    if isinstance(model, PeftModel):
        return cast(PreTrainedModel, model.get_base_model())
    return cast(PreTrainedModel, model)


def _is_head(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and module.out_features == 1


def zero_head(model: ScalarModel) -> None:
    """Set the head of `model` to 0 in place: a critic that starts without an opinion (P16)."""
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()


def with_lora(model: PreTrainedModel, settings: LoraSettings, *, task: TaskType) -> PreTrainedModel:
    """Add a trainable adapter to `model`, whose own weights are frozen in place.

    A token-classification head stays trainable in full.
    """
    targets = list(settings.target_modules)
    heads = [name for name, module in model.named_modules() if _is_head(module)]
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets[0] if targets == ["all-linear"] else targets,
        exclude_modules=heads or None,
        task_type=task,
    )
    # A PeftModel answers to all that is asked of a model here, but shares no class with it.
    return cast(PreTrainedModel, get_peft_model(model, config))


def merged(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The model with its adapter, if it has one, added into the weights of a copy.

    The weights below an adapter may be those of other models too, and stay as they are.
    """
    if isinstance(model, PeftModel):
        return cast(PreTrainedModel, copy.deepcopy(model).merge_and_unload())
    return model


def merge_adapter(scalar: ScalarModel) -> None:
    """Add the adapter of `scalar`, if it has one, into its weights in place; it is kept beside."""
    scalar.adapter = adapter_of(scalar.model)
    scalar.model = merged(scalar.model)


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over the names, shapes and bytes of every parameter and buffer."""
    return tensors_digest(model.state_dict())


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, shapes and bytes of the tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
