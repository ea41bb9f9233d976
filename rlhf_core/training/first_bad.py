"""Finding the first tensor that is not finite, once a step has one."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

Item = TypeVar("Item")


class Bad(NamedTuple):
    """The first tensor of a step that is not finite, and the cause that its place points to."""

    cause: str
    tensor: str


def first_bad_tensor(
    model: nn.Module,
    parts: Iterable[Item],
    pass_over: Callable[[Item], Any],
    *,
    loss_is_finite: bool,
) -> Bad:
    """Where a step that is not finite went wrong: weight, layer, loss or gradient, in this order.

    The forward passes are made again, with a look at what every layer gives.
    """
    for name, weight in model.named_parameters():
        if not is_finite(weight):
            return Bad("bad_weights", f"weight {name}")
    layer = first_bad_layer(model, parts, pass_over)
    if layer is not None:
        return Bad("bad_layer", f"output of layer {layer}")
    if not loss_is_finite:
        return Bad("bad_loss", "the loss")
    for name, weight in reversed(list(model.named_parameters())):
        if weight.grad is not None and not is_finite(weight.grad):
            return Bad("bad_gradient", f"gradient of {name}")
    return Bad("bad_gradient", "the gradient's norm")


def first_bad_layer(
    model: nn.Module, parts: Iterable[Item], pass_over: Callable[[Item], Any]
) -> str | None:
    """The first layer whose output is not finite in these passes; None where there is none."""
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not found and not all(is_finite(tensor) for tensor in _tensors(output)):
                found.append(name)

        return hook

    hooks = [
        module.register_forward_hook(look(name or "(whole)"))
        for name, module in model.named_modules()
    ]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for part in parts:
                pass_over(part)
                if found:
                    break
    finally:
        for handle in hooks:
            handle.remove()
    return found[0] if found else None


def is_finite(tensor: Tensor) -> bool:
    """Whether no element is infinite or no number."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output
    return [part for part in parts if isinstance(part, Tensor)] if _is_group(parts) else []


def _is_group(parts: Any) -> bool:
    return isinstance(parts, tuple | list) or hasattr(parts, "__iter__")
