"""The exponential average of a network's weights over the steps of its optimizer (detail P25)."""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch import Tensor, nn

from rlhf_core.maths.running import moved_average
from rlhf_core.training.trained import take_tensors, trained_tensors

Network = TypeVar("Network", bound=nn.Module)


@dataclass
class WeightAverage(Generic[Network]):
    """The average of what training changes in `network`, itself no network until it is asked for.

    `tensors` belong to the training state: they are looked up at each use, since a return to a
    checkpoint puts others in their place.
    """

    network: Network
    decay: float
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def begin(self) -> None:
        """Start at the weights of now, unless a checkpoint has brought an average back."""
        if not self.tensors:
            self.begin_anew()

    def begin_anew(self) -> None:
        """Start at the weights of now: they were put back, and the average followed bad ones."""
        now = trained_tensors(self.network)
        self.tensors.update({name: tensor.clone() for name, tensor in now.items()})

    def follow(self) -> None:
        """Move towards the weights of now; called after every step of the optimizer."""
        for name, tensor in trained_tensors(self.network).items():
            self.tensors[name] = (
                moved_average(self.tensors[name], tensor, decay=self.decay)
                if tensor.is_floating_point()
                else tensor.clone()
            )

    def averaged(self) -> Network:
        """A copy of the network that has the average for its weights."""
        copy = deepcopy(self.network)
        take_tensors(copy, self.tensors)
        return copy
