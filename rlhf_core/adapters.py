"""A low-rank adapter beside the weights it was merged into, as file and as value."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

ADAPTER = "adapter"
CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"


class Adapter(NamedTuple):
    """What an adapter adds to a body; the head, which is trained in full, is no part of it."""

    config: dict[str, Any]
    """The arguments of peft's LoraConfig."""
    tensors: dict[str, Tensor]
    """The low-rank matrices, by the names that the adapted model gives them."""

    def lora_config(self) -> LoraConfig:
        """The adapter's shape."""
        return LoraConfig(**self.config)


def adapter_of(model: nn.Module) -> Adapter | None:
    """The adapter of a model that is not merged yet; None where there is none."""
    if not isinstance(model, PeftModel):
        return None
    tensors = {
        name: tensor.detach().clone()
        for name, tensor in model.named_parameters()
        if "lora_" in name
    }
    config = model.peft_config["default"]
    return Adapter({name: _plain(getattr(config, name)) for name in SHAPE}, tensors)


SHAPE = (
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "modules_to_save",
    "task_type",
)
"""What of peft's LoraConfig is ours to set, or follows from the task."""


def _plain(value: Any) -> Any:
    """Sets in an order that every process gives them, so that equal adapters are equal bytes."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value.value) if hasattr(value, "value") else value


def save_adapter(adapter: Adapter, folder: Path) -> None:
    """Write the adapter into `folder`."""
    folder.mkdir()
    save_file({name: w.cpu().contiguous() for name, w in adapter.tensors.items()}, folder / TENSORS)
    config = json.dumps(adapter.config, indent=2)
    (folder / CONFIG).write_text(config + "\n", encoding="utf-8", newline="\n")


def read_adapter(folder: Path) -> Adapter | None:
    """The adapter in `folder`; None where there is none."""
    if not folder.is_dir():
        return None
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return Adapter(config, load_file(folder / TENSORS))
