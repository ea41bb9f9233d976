"""The models: loading them safely, making them from nothing, and one scalar per token.

A policy is a causal language model of transformers; the reward model and the value model are a
`ScalarModel`. All weights travel as safetensors and no foreign code is run.
"""

import copy
import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, cast

import torch
from huggingface_hub.errors import HfHubHTTPError
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from rlhf_core.errors import ModelError
from rlhf_core.maths.masking import position_ids
from rlhf_core.settings.base import LoraSettings
from rlhf_core.settings.model import ScratchModelSettings

LOADING = {
    "trust_remote_code": False,
    "use_safetensors": True,
    "attn_implementation": "sdpa",
    "dtype": torch.float32,
}
"""How every model is read: float32 master weights (detail P26), safetensors only."""


def load_policy(base: str | Path, *, revision: str | None = None) -> PreTrainedModel:
    """Load a causal language model from a folder or the hub, with all dropout off.

    Raises ModelError where there is no such model, or it is not saved as safetensors.
    """
    loaded = _load(AutoModelForCausalLM, base, "causal language model", revision=revision)
    _refuse_missing(loaded, base, allowed=())
    disable_dropout(loaded.model)
    return loaded.model


class _Loaded(NamedTuple):
    model: PreTrainedModel
    missing: list[str]


def _load(
    auto_class: type[AutoModelForCausalLM] | type[AutoModelForTokenClassification],
    base: str | Path,
    kind: str,
    **options: object,
) -> _Loaded:
    try:
        with _quiet_transformers():
            # With `output_loading_info` the result is a pair, which its annotation does not say.
            pair: object = auto_class.from_pretrained(
                str(base), output_loading_info=True, **LOADING, **options
            )
            model, info = cast(tuple[PreTrainedModel, dict[str, list[str]]], pair)
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise ModelError(_cannot_load(base, kind, error)) from error
    return _Loaded(model, sorted(info["missing_keys"]))


def _refuse_missing(loaded: _Loaded, base: str | Path, *, allowed: Sequence[str]) -> None:
    """Raise ModelError where weights other than the allowed were not in the folder."""
    missing = [name for name in loaded.missing if name not in allowed]
    if missing:
        raise ModelError(
            f"{base} lacks {len(missing)} of the model's weights, {missing[0]!r} among them, and "
            "random ones would take their place: give the folder of a whole model."
        )


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bars and loading tables off the terminal for a while."""
    shown, verbosity = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if shown:
            hf_logging.enable_progress_bar()


def load_tokenizer(base: str | Path, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer whose padding and end-of-sequence tokens both exist and differ (S5)."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(base), revision=revision, trust_remote_code=False
        )
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise ModelError(_cannot_load(base, "tokenizer", error)) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"The tokenizer of {base} has no end-of-sequence token, so a response could never end: "
            "set eos_token in its tokenizer_config.json."
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    return tokenizer


def _cannot_load(base: str | Path, kind: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    place = "folder" if Path(base).is_dir() else "hub id"
    return (
        f"model.base: the {place} {str(base)!r} cannot be loaded as a {kind} ({reason}). Give a "
        "folder in the hub's format with safetensors weights, or a hub id that this machine can "
        "reach: --set model.base=FOLDER."
    )


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


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end a response: the tokenizer's own first, then those the model was trained with."""
    trained = getattr(model.generation_config, "eos_token_id", None)
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
        whole = _adapted(self.model)
        body = cast(PreTrainedModel, getattr(whole, whole.base_model_prefix))
        states = body(
            input_ids=input_ids.masked_fill(~attention_mask, 0),
            attention_mask=attention_mask,
            position_ids=position_ids(attention_mask),
            use_cache=False,
            output_hidden_states=True,
        ).hidden_states
        return cast(tuple[Tensor, ...], states)


def _adapted(model: nn.Module) -> PreTrainedModel:
    """The model whose modules a PeftModel has adapted, or the model itself without one."""
    if isinstance(model, PeftModel):
        return cast(PreTrainedModel, model.get_base_model())
    return cast(PreTrainedModel, model)


def _is_head(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and module.out_features == 1


def new_scalar_model(policy_folder: str | Path, *, seed: int) -> ScalarModel:
    """The body of a causal model under a fresh head (details R1 and R2).

    Head weights ~ N(0, 1 / (d + 1)), a deviation of 1 / sqrt(d + 1), and bias 0, as in
    arXiv:1909.08593 and arXiv:2009.01325.
    """
    loaded = _load(AutoModelForTokenClassification, policy_folder, "language model", num_labels=1)
    scalar = ScalarModel(loaded.model)
    head = scalar.head
    heads = [name for name, module in loaded.model.named_modules() if module is head]
    allowed = [f"{heads[0]}.weight", f"{heads[0]}.bias"]
    _refuse_missing(loaded, policy_folder, allowed=allowed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        std = 1 / math.sqrt(head.in_features + 1)
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * std)
        head.bias.zero_()
    return scalar


def zero_head(model: ScalarModel) -> None:
    """Set the head of `model` to 0 in place: a critic that starts without an opinion (P16)."""
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()


def load_scalar_model(folder: str | Path) -> ScalarModel:
    """Load a reward or value model, its head and its normalisation (the head's bias) included."""
    loaded = _load(AutoModelForTokenClassification, folder, "reward model")
    _refuse_missing(loaded, folder, allowed=())
    return ScalarModel(loaded.model)


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
    """The model with its adapter, if it has one, added into the weights."""
    if isinstance(model, PeftModel):
        return cast(PreTrainedModel, model.merge_and_unload())
    return model


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write `model` into `folder` in the hub's format, as safetensors."""
    with _quiet_transformers():
        model.save_pretrained(folder, safe_serialization=True)


def save_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a policy and its tokenizer so that `generate` samples plainly from it (detail P3)."""
    ends = end_token_ids(model, tokenizer)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends[0] if len(ends) == 1 else ends,
        pad_token_id=tokenizer.pad_token_id,
    )
    save_model(model, folder)
    tokenizer.save_pretrained(folder)


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over the names, shapes and bytes of every parameter and buffer."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
