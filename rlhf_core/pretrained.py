"""Reading models and tokenizers from folders or the hub, and writing them.

All weights travel as safetensors, none that is missing is made up, and no foreign code is run.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, cast

import torch
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from rlhf_core.adapters import ADAPTER, read_adapter, save_adapter
from rlhf_core.data.base_tokenizer import PADDING
from rlhf_core.errors import ModelError, TrainingStopped
from rlhf_core.models import ScalarModel, disable_dropout, end_token_ids

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
    auto_class: type[
        AutoModelForCausalLM | AutoModelForSequenceClassification | AutoModelForTokenClassification
    ],
    base: str | Path,
    kind: str,
    setting: str = "model.base",
    **options: object,
) -> _Loaded:
    try:
        with _quiet_transformers():
            # With `output_loading_info` the result is a pair, which its annotation does not say.
            pair: object = auto_class.from_pretrained(
                str(base), output_loading_info=True, **LOADING, **options
            )
            model, info = cast(tuple[PreTrainedModel, dict[str, list[str]]], pair)
    except (OSError, ValueError, HfHubHTTPError, SafetensorError) as error:
        raise ModelError(_cannot_load(base, kind, error, setting)) from error
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
    separate_padding(tokenizer)
    return tokenizer


def separate_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give `tokenizer` a padding token where it has none, or where it is the one that ends (S5)."""
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PADDING})


def _cannot_load(base: str | Path, kind: str, error: Exception, setting: str = "model.base") -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    place = "folder" if Path(base).is_dir() else "hub id"
    return (
        f"{setting}: the {place} {str(base)!r} cannot be loaded as a {kind} ({reason}). Give a "
        "folder in the hub's format with safetensors weights, or a hub id that this machine can "
        f"reach: --set {setting}=FOLDER."
    )


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


def load_scalar_model(folder: str | Path) -> ScalarModel:
    """Load a reward or value model, its head and its normalisation (the head's bias) included."""
    loaded = _load(AutoModelForTokenClassification, folder, "reward model")
    _refuse_missing(loaded, folder, allowed=())
    scalar = ScalarModel(loaded.model)
    scalar.adapter = read_adapter(Path(folder) / ADAPTER)
    return scalar


def load_outside_scalar_model(source: str, *, revision: str | None, setting: str) -> ScalarModel:
    """A reward model that was trained elsewhere to give a sequence, or its tokens, one number.

    Raises ModelError where its head is anything but one linear layer on the last hidden states,
    for then no read-out of ours would be the one that it was trained with.
    """
    tokens, sequence = (
        _load(auto_class, source, "reward model", setting=setting, revision=revision)
        for auto_class in (AutoModelForTokenClassification, AutoModelForSequenceClassification)
    )
    refusal = ModelError(
        f"{setting}: {source} has no head of one linear layer with one label on a language "
        "model's last states, so its score cannot be read here. Give a reward model of a decoder, "
        "saved as a sequence or token classifier with num_labels=1."
    )
    if tokens.model.config.num_labels != 1:
        raise refusal
    scalar = ScalarModel(tokens.model)
    heads = [name for name, module in tokens.model.named_modules() if module is scalar.head]
    of_head = [f"{heads[0]}.weight", f"{heads[0]}.bias"]
    if not set(of_head) & set(tokens.missing):
        _refuse_missing(tokens, source, allowed=())
        return scalar
    head = getattr(sequence.model, "score", None)
    if sequence.missing or not isinstance(head, nn.Linear):
        raise refusal
    _refuse_missing(tokens, source, allowed=of_head)
    with torch.no_grad():
        scalar.head.weight.copy_(head.weight)
        scalar.head.bias.zero_()
        if head.bias is not None:
            scalar.head.bias.copy_(head.bias)
    return scalar


def save_scalar_model(scalar: ScalarModel, folder: Path) -> None:
    """Write a merged model into `folder`, and its adapter beside its weights if it had one."""
    save_model(scalar.model, folder)
    if scalar.adapter is not None:
        save_adapter(scalar.adapter, folder / ADAPTER)


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write `model` into `folder` in the hub's format, as safetensors.

    Raises TrainingStopped where a weight is not finite: such a model is never published.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise TrainingStopped(
                f"The model is not published: its weight {name} is not finite. Lower the learning "
                "rate, or look for extreme rows."
            )
    with _quiet_transformers():
        model.save_pretrained(folder, safe_serialization=True)


def save_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a policy and its tokenizer so that `generate` samples plainly from it (detail P3)."""
    ends = end_token_ids(model.generation_config, tokenizer)
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
