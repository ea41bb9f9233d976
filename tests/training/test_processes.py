"""Two processes and gloo in the place of several GPUs; each trains on its share of every batch."""

import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch.testing import assert_close

from rlhf_core.errors import UserError
from rlhf_core.report import ignore
from rlhf_core.reward_models import RewardModel
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.settings.ptx import PtxSettings
from rlhf_core.settings.reward_model import RewardModelSettings
from rlhf_core.settings.sft import SftSettings
from rlhf_core.training.averaging import WeightAverage
from rlhf_core.training.demonstrations import Demonstrations
from rlhf_core.training.ppo import train_ppo
from rlhf_core.training.ptx import PtxTerm
from rlhf_core.training.ranked import Rankings
from rlhf_core.training.reward_model import train_reward_model
from rlhf_core.training.sft import train_sft
from tests.processes import run_in_two_processes
from tests.tiny_models import PAD, SPECIAL, tiny_policy, tiny_ppo_models, tiny_scalar_model


def policy_gradients(accelerator: Accelerator, *, batch_size: int) -> list[torch.Tensor]:
    """Gradients of the last step over 17 rows in micro-batches of 4, at a rate that moves nothing.

    In one batch the processes have 9 and 8 rows, three micro-batches and two; in batches of 8 the
    last is a single row, too few for two processes.
    """
    rows = Demonstrations(
        [[3 + i % 9] * (1 + i % 3) for i in range(17)],
        [[3 + i % 9] * (1 + i % 4) + [1] for i in range(17)],
    )
    policy = tiny_policy()
    train_sft(
        policy,
        rows,
        rows,
        SftSettings(
            batch_size=batch_size, micro_batch_size=4, learning_rate=1e-30, max_grad_norm=1e9
        ),
        ignore,
        pad_token_id=PAD,
        seed=1,
        accelerator=accelerator,
    )
    return [parameter.grad for parameter in policy.parameters()]


def reward_model_weights(accelerator: Accelerator) -> list[torch.Tensor]:
    """11 rows in batches of 8: the last batch is shared unevenly, 2 and 1."""
    model = tiny_scalar_model()
    train_reward_model(
        RewardModel([model]),
        Rankings(
            [[3 + i % 9] for i in range(11)],
            [[[4 + i % 8, 1], [5, 4 + i % 7, 1]] for i in range(11)],
            [[1, 2] if i % 2 else [2, 1] for i in range(11)],
        ),
        RewardModelSettings(batch_size=8, micro_batch_size=1, learning_rate=0.003),
        ignore,
        special=SPECIAL,
        mismatched=None,
        seed=1,
        accelerator=accelerator,
    )
    return list(model.parameters())


TEXT = [[3 + i % 9] * (2 + i % 4) + [1] for i in range(7)]


def text_gradients(accelerator: Accelerator) -> list[torch.Tensor]:
    """Of 7 examples of unequal length, which two processes share unevenly."""
    policy = tiny_policy()
    settings = PtxSettings(coef=2.0, micro_batch_size=3)
    PtxTerm(TEXT, settings, PAD).add_gradients(accelerator, policy, policy, range(7))
    return [parameter.grad for parameter in policy.parameters()]


EVERYTHING = {
    "loss_reduction": "sequence_sum",
    "dual_clip": 3.0,
    "scale_scores": True,
    "whiten_advantages": "mini_batch",
    "ptx": PtxSettings(grad_norm_ratio=0.5),
    "ema_decay": 0.9,
}


def ppo_weights(accelerator: Accelerator, **changes: object) -> list[torch.Tensor]:
    """Parameters of a policy, a value model and the policy's average after two updates."""
    models = tiny_ppo_models()
    average = WeightAverage(models.policy, 0.9)
    train_ppo(
        models,
        [[3 + i % 9, 4 + i % 8] for i in range(16)],
        PpoSettings(
            **{"updates": 2, "rollout_batch_size": 8, "mini_batch_size": 4, "learning_rate": 0.003}
            | changes
        ),
        ignore,
        special=SPECIAL,
        max_response_tokens=6,
        missing_eos_score=-1.0,
        seed=1,
        accelerator=accelerator,
        average=average,
        text=TEXT,
    )
    averaged = average.averaged().parameters()
    return [*models.policy.parameters(), *models.value_model.parameters(), *averaged]


def train_all(accelerator: Accelerator) -> dict[str, list[torch.Tensor]]:
    return {
        "gradients of one batch": policy_gradients(accelerator, batch_size=32),
        "gradients of a short last batch": policy_gradients(accelerator, batch_size=8),
        "reward model": reward_model_weights(accelerator),
        "gradients of plain text": text_gradients(accelerator),
        "ppo": ppo_weights(accelerator),
        "ppo with everything": ppo_weights(accelerator, **EVERYTHING),
    }


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path):
    run_in_two_processes("tests.training.test_processes", tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    alone = train_all(Accelerator(cpu=True))

    for name, weights in alone.items():
        for index, weight in enumerate(weights):
            assert torch.equal(first[name][index], second[name][index]), name
            if not name.startswith("ppo"):  # whose processes draw responses of their own
                # float32 sums in another order
                assert_close(first[name][index], weight.detach(), atol=1e-5, rtol=0, msg=name)


def main() -> None:
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    for uneven in ({"rollout_batch_size": 9, "mini_batch_size": 3}, {"mini_batch_size": 1}):
        with pytest.raises(UserError, match="2 processes cannot share"):
            ppo_weights(accelerator, **uneven)
    trained = train_all(accelerator)
    torch.save(
        {name: [w.detach() for w in weights] for name, weights in trained.items()},
        Path(sys.argv[1]) / f"{accelerator.process_index}.pt",
    )
    accelerator.end_training()


if __name__ == "__main__":
    main()
