"""Independent pieces of work side by side on the cores of a CPU.

The results do not depend on how many cores there are.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    function: Callable[[Item], Result], items: Iterable[Item], *, device: torch.device
) -> list[Result]:
    """The function's result for each item, in the items' order.

    On a CPU with several threads each item is computed by one of them, so that its bits are the
    same whatever their number: small models gain more from this than from threads within a matrix
    product. A single item, and every other device, is computed here and now. The function must not
    change anything that another item reads.
    """
    items = list(items)
    workers = torch.get_num_threads()
    if device.type != "cpu" or len(items) < 2 or workers < 2:
        return [function(item) for item in items]
    grad_enabled = torch.is_grad_enabled()

    def run(item: Item) -> Result:
        with torch.set_grad_enabled(grad_enabled):  # the mode belongs to a thread
            return function(item)

    return list(_pool(workers).map(run, items))


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, "side-by-side", initializer=_one_thread)


def _one_thread() -> None:
    torch.set_num_threads(1)  # of the calling thread: each keeps its own number
