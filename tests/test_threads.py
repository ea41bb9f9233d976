import time

import pytest
import torch

from rlhf_core.models import weights_digest
from rlhf_core.threads import side_by_side
from tests.tiny_models import tiny_ppo_models
from tests.training.test_ppo import train

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_items(threads):
    def late(item):
        time.sleep(0.02 if item == 0 else 0)
        return item * item

    assert side_by_side(late, iter(range(5)), device=CPU) == [0, 1, 4, 9, 16]


def test_an_error_of_one_item_is_raised(threads):
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda item: 1 / item, [1, 0, 2], device=CPU)


@pytest.mark.parametrize("enabled", [True, False])
def test_gradients_are_taken_where_the_caller_takes_them(threads, enabled):
    weight = torch.ones(1, requires_grad=True)
    with torch.set_grad_enabled(enabled):
        results = side_by_side(lambda item: (weight * item).requires_grad, [1, 2, 3], device=CPU)
    assert results == [enabled] * 3


def test_the_bits_do_not_depend_on_the_number_of_threads():
    def digest(count):
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            models = tiny_ppo_models()
            train(models, updates=1, micro_batch_size=4)
        finally:
            torch.set_num_threads(before)
        return weights_digest(models.policy), weights_digest(models.value_model)

    assert digest(1) == digest(2)
