import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.testing import assert_close

from rlhf_core.errors import TrainingStopped
from rlhf_core.training.optimization import (
    Part,
    adamw,
    micro_batches,
    optimizer_step,
    own_share,
    set_learning_rate,
    summed,
)


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def step(model, parts, *, max_grad_norm=1e9):
    """One plain gradient step at a rate of 0.1; `parts` are inputs whose outputs are averaged."""
    return optimizer_step(
        Accelerator(),
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        parts,
        lambda rows: Part(model(rows).mean(), len(rows), {"largest": float(rows.max())}),
        max_grad_norm=max_grad_norm,
    )


def test_a_step_follows_the_mean_over_tokens_whatever_the_micro_batches():
    # Token losses 1 1 1 1 in one micro-batch and 3 in another: the published vector AGG, 1.4.
    model = linear()
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.zero_()

    taken = step(model, [torch.tensor([[1.0, 0, 0]] * 4), torch.tensor([[0, 3.0, 0]])])

    assert_close(taken.loss, 1.4, atol=1e-6, rtol=0)  # float32
    # d/dw = sum of the inputs / 5 = (4/5, 3/5, 0), and a rate of 0.1
    assert_close(model.weight[0].tolist(), [0.92, 0.94, 1.0], atol=1e-6, rtol=0)
    assert_close(taken.grad_norm, (0.8**2 + 0.6**2 + 1.0**2) ** 0.5, atol=1e-6, rtol=0)
    # Metrics are weighted as losses are: (4 * 1 + 1 * 3) / 5.
    assert_close(taken.metrics, {"largest": 1.4}, atol=1e-6, rtol=0)


def test_a_large_gradient_is_scaled_down_to_the_given_norm():
    model = linear()
    before = torch.cat([model.weight[0], model.bias]).detach().clone()
    taken = step(model, [torch.full((1, 3), 100.0)], max_grad_norm=0.5)
    moved = torch.cat([model.weight[0], model.bias]).detach() - before
    assert_close(taken.grad_norm, (3 * 100**2 + 1) ** 0.5, atol=1e-3, rtol=0)  # of 173, in float32
    assert_close(moved.norm().item(), 0.1 * 0.5, atol=1e-6, rtol=0)  # float32


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_training_before_the_step(bad):
    model = linear()
    before = model.weight.detach().clone()
    with pytest.raises(TrainingStopped, match="lower the learning rate"):
        step(model, [torch.ones(1, 3), torch.full((1, 3), bad)])
    assert torch.equal(model.weight, before)


def test_no_gradient_is_left_over_from_the_step_before():
    def moved(steps):
        model = linear()
        for _ in range(steps):
            before = model.bias.item()
            step(model, [torch.ones(1, 3)])
        return before - model.bias.item()

    assert_close(moved(1), 0.1, atol=1e-6, rtol=0)  # float32
    assert_close(moved(3), 0.1, atol=1e-6, rtol=0)


def test_biases_and_norms_are_not_decayed_and_frozen_weights_not_moved():
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 2))
    model[2].requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    optimizer = adamw(model, 0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    # Without a gradient only the decay acts: 1 - 0.1 * 0.5.
    expected = [0.95, 1.0, 1.0, 1.0, 1.0, 1.0]
    found = [parameter.flatten()[0].item() for parameter in model.parameters()]
    assert_close(found, expected, atol=1e-6, rtol=0)  # float32


@pytest.mark.parametrize(
    "gradient, moved",
    # The published vector of Adam's first step at a rate and an epsilon of 1e-5.
    [(0.01, 9.990009990009992e-06), (1e-4, 9.090909090909091e-06), (1e-6, 9.09090909090909e-07)],
)
def test_the_first_step_is_adams(gradient, moved):
    parameter = nn.ParameterList([nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))])
    optimizer = adamw(parameter, 1e-5, epsilon=1e-5)
    parameter[0].grad = torch.full((1, 1), gradient, dtype=torch.float64)
    optimizer.step()
    assert_close(-parameter[0].item(), moved, rtol=1e-9, atol=0)  # the vector's digits


def test_the_rate_is_set_in_every_group():
    optimizer = adamw(linear(), 0.5)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


@pytest.mark.parametrize(
    "size, parts", [(None, [[1, 2, 3, 4, 5]]), (2, [[1, 2], [3, 4], [5]]), (9, [[1, 2, 3, 4, 5]])]
)
def test_micro_batches_hold_every_row_once(size, parts):
    assert list(micro_batches([1, 2, 3, 4, 5], size)) == parts


class _Processes:
    num_processes = 3

    def __init__(self, index: int) -> None:
        self.process_index = index


def test_the_shares_of_all_processes_are_the_batch():
    shares = [own_share([5, 6, 7, 8], _Processes(index)) for index in range(3)]
    assert shares == [[5, 8], [6], [7]]


def test_too_few_rows_to_share_are_worked_on_by_all():
    assert [own_share([5, 6], _Processes(index)) for index in range(3)] == [[5, 6]] * 3


def test_one_process_sums_to_itself():
    assert summed(Accelerator(), 2.5) == 2.5
