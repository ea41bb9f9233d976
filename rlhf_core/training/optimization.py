"""What the training loops share: accelerate, the optimizer, micro-batches and the clipped step."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf_core.errors import TrainingStopped
from rlhf_core.maths.schedules import adam_epsilon_outside
from rlhf_core.same_bits import ask_for_same_bits
from rlhf_core.threads import side_by_side
from rlhf_core.training.first_bad import Bad, first_bad_tensor
from rlhf_core.training.guard import Guard

Item = TypeVar("Item")


def make_accelerator() -> Accelerator:
    """Where training runs: one process, or those that `accelerate launch` started."""
    ask_for_same_bits()
    return Accelerator()


def adamw(
    model: nn.Module,
    learning_rate: float,
    *,
    weight_decay: float = 0.0,
    beta2: float = 0.95,
    epsilon: float = 1e-8,
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; biases and norms are not decayed."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=learning_rate,
        betas=(0.9, beta2),
        eps=epsilon,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the rate of every group of `optimizer` in place."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def put_epsilon_outside(optimizer: torch.optim.Optimizer, epsilon: float) -> None:
    """Set the epsilon with which the next step of `optimizer` is TensorFlow's (detail P12)."""
    taken = max((int(of["step"]) for of in optimizer.state.values() if of), default=0)
    for group in optimizer.param_groups:
        group["eps"] = adam_epsilon_outside(epsilon, beta2=group["betas"][1], step=taken + 1)


def own_share(rows: Sequence[int], accelerator: Accelerator) -> list[int]:
    """The rows of a global batch that this process works on.

    Each works on all of them where there are too few to share: the mean is the same.
    """
    if len(rows) < accelerator.num_processes:
        return list(rows)
    return list(rows[accelerator.process_index :: accelerator.num_processes])


def micro_batches(rows: Sequence[int], size: int | None) -> Iterator[list[int]]:
    """Cut the rows of one optimizer step into forward passes of at most `size` rows."""
    size = size or max(len(rows), 1)
    for start in range(0, len(rows), size):
        yield list(rows[start : start + size])


class Part(NamedTuple):
    """One micro-batch: its mean loss, that mean's weight, and other means over the same rows.

    The weight is the micro-batch's count of tokens or prompts, whichever the loss is a mean over.
    """

    loss: Tensor
    weight: float
    metrics: dict[str, float]
    metric_weight: float | None = None
    """Weight of the metrics, where theirs is another than the loss's."""


AddGradients = Callable[[], dict[str, float]]
"""Adds to the gradients that are there, in place, and gives further metrics."""


class Step(NamedTuple):
    """What one optimizer step did, over all micro-batches and processes."""

    loss: float
    grad_norm: float
    metrics: dict[str, float]
    bad: Bad | None = None
    """Why it was not taken: weights and optimizer are then as before, bit for bit."""


def optimizer_step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    parts: Iterable[Item],
    part_of: Callable[[Item], Part],
    *,
    max_grad_norm: float,
    add_gradients: AddGradients | None = None,
    guard: Guard | None = None,
) -> Step:
    """Accumulate the micro-batches' gradients and take one step; `model` is changed in place.

    Gradients are those of `fill_gradients`, and what `add_gradients` adds to them. Where the loss
    or the gradient is not finite the step is not taken: its `bad` says why, for `guard.judge`;
    without a guard it raises TrainingStopped.
    """
    parts = list(parts)
    optimizer.zero_grad()
    means = fill_gradients(accelerator, model, parts, part_of)
    if add_gradients is not None:
        means |= add_gradients()
    norm = accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
    loss, grad_norm = means.pop("loss"), float(norm) if norm is not None else 0.0
    bad = None
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        if guard is None:
            raise TrainingStopped(
                f"Training stopped before an optimizer step whose loss is {loss} and whose "
                f"gradient norm is {grad_norm}: lower the learning rate, or look for extreme rows."
            )
        bad = first_bad_tensor(model, parts, part_of, loss_is_finite=math.isfinite(loss))
    elif guard is not None and guard.skips(loss):
        bad = Bad("spike", "the loss")
    if bad is not None:
        optimizer.zero_grad()
        return Step(loss, grad_norm, means, bad)
    optimizer.step()
    return Step(loss, grad_norm, means)


def fill_gradients(
    accelerator: Accelerator, model: nn.Module, parts: list[Item], part_of: Callable[[Item], Part]
) -> dict[str, float]:
    """Fill the gradients of `model`, which has none, from all micro-batches; gives their means.

    `part_of` gives the loss of one micro-batch. Losses are weighted by their share of the weight of
    all processes, so that neither micro-batches nor processes change the gradient (detail P30,
    invariant 17). `loss` is among the means.
    """
    alone_on_cpu = accelerator.num_processes == 1 and accelerator.device.type == "cpu"
    if alone_on_cpu and not _draws(model):
        done = _gradients_side_by_side(accelerator, model, parts, part_of)
    else:
        done = _gradients_in_turn(accelerator, model, parts, part_of)
    sums = WeightedMeans()
    for part in done:
        sums.add("loss", float(part.loss.detach()), part.weight)
        for name, mean in part.metrics.items():
            sums.add(name, mean, part.metric_weight or part.weight)
    return sums.over_processes(accelerator)


def _draws(model: nn.Module) -> bool:
    """Whether a pass draws from torch's global generator: side by side, its order is left open."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())


def _gradients_side_by_side(
    accelerator: Accelerator, model: nn.Module, parts: list[Item], part_of: Callable[[Item], Part]
) -> list[Part]:
    """Fill the parameters' gradients from micro-batches that are computed on several cores."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def gradients(item: Item) -> tuple[Part, tuple[Tensor | None, ...]]:
        part = part_of(item)
        loss = part.loss * part.weight
        return part, torch.autograd.grad(loss, parameters, allow_unused=True)

    done = side_by_side(gradients, parts, device=accelerator.device)
    total = sum(part.weight for part, _ in done)
    for index, parameter in enumerate(parameters):
        found = [grads[index] for _, grads in done]
        grads = [grad for grad in found if grad is not None]
        if grads:
            whole = grads[0] if len(grads) == 1 else torch.stack(grads).sum(dim=0)
            parameter.grad = whole / total
    return [part._replace(loss=part.loss.detach()) for part, _ in done]


def _gradients_in_turn(
    accelerator: Accelerator, model: nn.Module, parts: list[Item], part_of: Callable[[Item], Part]
) -> list[Part]:
    """Fill the parameters' gradients from one micro-batch after the other, through accelerate."""
    done = []
    # Processes may have different numbers of micro-batches, so they meet only after the last.
    with accelerator.no_sync(model):
        for item in parts:
            part = part_of(item)
            accelerator.backward(part.loss * part.weight)
            done.append(part._replace(loss=part.loss.detach()))
    total = summed(accelerator, sum(part.weight for part in done))
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad = accelerator.reduce(parameter.grad, "sum").div_(total)
    return done


EXTREMES = ("largest_", "smallest_")
"""How a number's name begins of which the largest or smallest counts, and not the mean."""


@dataclass
class WeightedMeans:
    """Means of numbers that were each measured over their own count of rows or tokens."""

    _totals: dict[str, float] = field(default_factory=dict)
    _extremes: dict[str, float] = field(default_factory=dict)
    _weights: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, mean: float, weight: float) -> None:
        """Take in a mean over `weight` rows or tokens."""
        if name.startswith(tuple(EXTREMES)):
            extreme = max if name.startswith("largest_") else min
            self._extremes[name] = extreme(mean, self._extremes.get(name, mean))
            return
        self._totals[name] = self._totals.get(name, 0.0) + mean * weight
        self._weights[name] = self._weights.get(name, 0.0) + weight

    def over_processes(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over everything that all processes took in."""
        means = {
            name: summed(accelerator, total) / summed(accelerator, self._weights[name])
            for name, total in self._totals.items()
        }
        return means | {
            name: _extreme(accelerator, name, value) for name, value in self._extremes.items()
        }


def _extreme(accelerator: Accelerator, name: str, number: float) -> float:
    """The largest or smallest of the processes' numbers, by its name."""
    if accelerator.num_processes == 1:
        return number
    value = torch.tensor([number], dtype=torch.float64, device=accelerator.device)
    everyone = accelerator.gather(value)
    return float(everyone.max() if name.startswith("largest_") else everyone.min())


def summed(accelerator: Accelerator, number: float) -> float:
    """The sum of `number` over all processes."""
    if accelerator.num_processes == 1:
        return number
    value = torch.tensor(number, dtype=torch.float64, device=accelerator.device)
    return float(accelerator.reduce(value, "sum"))
