"""The tensors that training changes, by name: weights and their optimizer's moments."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Trained(NamedTuple):
    """A network in training and its optimizer."""

    network: nn.Module
    optimizer: torch.optim.Optimizer


class Misfit(Exception):
    """Saved tensors that are not those of the network at hand."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"expected {expected}, found {found}")
        self.expected = expected
        self.found = found


def trained_tensors(network: nn.Module) -> dict[str, Tensor]:
    """What training changes: weights with a gradient, each once, and buffers that are saved."""
    saved = network.state_dict().keys()
    weights = {name: w.detach() for name, w in network.named_parameters() if w.requires_grad}
    return weights | {name: b for name, b in network.named_buffers() if name in saved}


def copied_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Copies of what training has made of `network` so far, by name."""
    return {name: tensor.clone() for name, tensor in trained_tensors(network).items()}


def take_tensors(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy `tensors` into the trained tensors of `network` in place; Misfit where one differs."""
    own = trained_tensors(network)
    _check_shapes(own, tensors)
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def moments(trained: Trained) -> dict[str, Tensor]:
    """The optimizer's state as `<weight>/<moment>`, empty before its first step."""
    state = trained.optimizer.state
    return {
        f"{name}/{moment}": tensor
        for name, weight in _named_weights(trained)
        for moment, tensor in state.get(weight, {}).items()
    }


def take_moments(trained: Trained, tensors: Mapping[str, Tensor]) -> None:
    """Make `tensors` the optimizer's state; Misfit where they are not of its weights."""
    weights = dict(_named_weights(trained))
    saved: dict[str, dict[str, Tensor]] = {name: {} for name in weights}
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition("/")
        if name not in weights:
            raise Misfit("moments of trained weights", key)
        if not tensor.ndim:  # the count of steps
            saved[name][moment] = tensor
            continue
        _check_shapes({key: weights[name]}, {key: tensor})
        saved[name][moment] = torch.empty_like(weights[name]).copy_(tensor)
    groups = trained.optimizer.state_dict()["param_groups"]
    state = {index: of for index, of in enumerate(saved.values()) if of}
    trained.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _named_weights(trained: Trained) -> list[tuple[str, Tensor]]:
    """The optimizer's weights in its own order, by the names that the network gives them."""
    names = {id(weight): name for name, weight in trained.network.named_parameters()}
    groups = trained.optimizer.param_groups
    return [(names[id(weight)], weight) for group in groups for weight in group["params"]]


def _check_shapes(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    expected, found = (
        {name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (own, saved)
    )
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise Misfit(f"{name} of shape {expected.get(name)}", f"shape {found.get(name)}")
