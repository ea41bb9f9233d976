"""What PPO trains: policy and value model in their prepared form, each with its optimizer."""

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.sharing import PolicyAndValue
from rlhf_core.training.optimization import adamw, set_learning_rate
from rlhf_core.training.rollouts import PpoModels


@dataclass(frozen=True)
class Trainable:
    """A network that is trained: its bare, its prepared form and its optimizer."""

    bare: nn.Module
    prepared: nn.Module
    optimizer: torch.optim.Optimizer
    learning_rate: float


def make_trainable(
    accelerator: Accelerator, model: nn.Module, learning_rate: float, settings: PpoSettings
) -> Trainable:
    """`model` prepared by accelerate, with an AdamW of its own."""
    optimizer = adamw(
        model, learning_rate, beta2=settings.adam_beta2, epsilon=settings.adam_epsilon
    )
    prepared, optimizer = accelerator.prepare(model, optimizer)
    prepared.train()
    return Trainable(model, prepared, optimizer, learning_rate)


@dataclass(frozen=True)
class Networks:
    """What is trained, each network by an optimizer of its own."""

    policy: Trainable
    """The policy; with `shared_trunk` a `PolicyAndValue`."""

    value_model: Trainable | None
    """None where there is no value model, or it is a head on the policy's trunk."""

    def by_name(self) -> dict[str, Trainable]:
        """Every network that there is."""
        policy = {"policy": self.policy}
        return policy if self.value_model is None else policy | {"value_model": self.value_model}

    def set_share(self, share: float) -> None:
        """Set each learning rate to this share of its peak in place."""
        for network in self.by_name().values():
            set_learning_rate(network.optimizer, network.learning_rate * share)


def make_networks(accelerator: Accelerator, models: PpoModels, settings: PpoSettings) -> Networks:
    """The models that are trained, prepared in the arrangement that the settings say."""
    policy, value_model = models.policy, models.value_model
    rate = settings.learning_rate
    if value_model is None:
        return Networks(make_trainable(accelerator, policy, rate, settings), None)
    if settings.value_network == "shared_trunk":
        both = PolicyAndValue(policy, value_model)
        return Networks(make_trainable(accelerator, both, rate, settings), None)
    value_rate = settings.value_learning_rate or rate
    return Networks(
        make_trainable(accelerator, policy, rate, settings),
        make_trainable(accelerator, value_model, value_rate, settings),
    )
