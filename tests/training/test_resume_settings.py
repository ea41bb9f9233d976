"""Every setting of the loops resumes exactly: it is a case here, or carries nothing between steps.

A setting that is added to a loop's section fails `test_no_setting_is_forgotten` until it is one of
the two.
"""

from pathlib import Path

import pytest

from rlhf_core.settings.algorithms import DpoSettings
from rlhf_core.settings.base import LoraSettings, Settings
from rlhf_core.settings.course import CourseSettings
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.settings.ptx import PtxSettings
from rlhf_core.settings.reward_model import EnsembleSettings, RewardModelSettings
from rlhf_core.settings.sft import SftSettings
from tests.training.resuming import resumes_exactly

LORA = LoraSettings(rank=2)
SHARED_TRUNK = {"value_network": "shared_trunk", "value_warmup_updates": 0}

CASES: dict[str, dict[str, dict[str, object]]] = {
    "sft": {
        "as it is": {},
        "micro batches": {"micro_batch_size": 3},
        "an adapter": {"lora": LORA},
        "an adapter with dropout": {"lora": LoraSettings(rank=2, dropout=0.3)},
        "patience that runs out": {"epochs": 9, "evaluations_per_epoch": 6, "patience": 3},
        "loss on the prompt too": {"loss_on": "all", "weight_decay": 0.1},
        "a guard that warns of much": {
            "sentinel": {"good_state_every": 4, "grad_norm": {"warn": 0.1}, "skip_spikes": True}
        },
        "packing, and the last weights": {"packing": True, "selection": "last"},
        "every epoch's weights and dropout": {"keep_epochs": True, "dropout": 0.3},
        "a line": {"schedule": "linear"},
    },
    "reward_model": {
        "as it is": {},
        "micro batches": {"micro_batch_size": 3},
        "an adapter": {"lora": LORA},
        "no mismatched rows": {"mismatch_rows": 0},
        "a rate of its own for them": {"mismatch_learning_rate": 0.01, "mismatch_group_size": 4},
        "heads that each see half of the rows": {"ensemble": EnsembleSettings(data_share=0.5)},
        "a read-out over tokens": {"readout": "per_token"},
        "a guard that keeps every third state": {"sentinel": {"good_state_every": 3}},
    },
    "ppo": {
        "as it is, with an adaptive KL coefficient": {"kl_target": 0.5, "kl_horizon": 100},
        "micro batches": {"micro_batch_size": 3},
        "adapters": {"lora": LORA},
        "the score after the end": {"score_at": "after_eos"},
        "whitening": {"whiten_advantages": "mini_batch", "whiten_rewards": True},
        "a sentinel that warns of much": {
            "sentinel": {"good_state_every": 2, "approx_kl": {"warn": 1e-9}}
        },
        "early ends of an update": {"max_approx_kl": 1e-4, "ppo_epochs": 3},
        "scores over their running deviation": {"scale_scores": True, "missing_eos": "subtract"},
        "an epsilon that follows the steps": {"adam_epsilon_style": "tensorflow"},
        "averaged weights": {"ema_decay": 0.8},
        "policies kept along the way": {"course": CourseSettings(kept=2)},
        "plain text whose weight follows the gradients": {
            "ptx": PtxSettings(grad_norm_ratio=0.5, examples_per_episode=0.5),
            "max_approx_kl": 1e-4,
        },
        "another objective": {
            "loss_reduction": "sequence_sum",
            "dual_clip": 1.5,
            "kl_estimator": "k3",
        },
        "rates of their own": {
            "value_learning_rate": 0.01,
            "learning_rate_schedule": "cosine",
            "reward_clip": 0.5,
        },
        "the policy's trunk for the values": SHARED_TRUNK,
        "adapters on a shared trunk": SHARED_TRUNK | {"lora": LORA},
        "leave-one-out baselines": {
            "algorithm": "rloo",
            "responses_per_prompt": 4,
            "value_warmup_updates": 0,
            "surrogate": "reinforce",
        },
        "the KL in the loss, with an adaptive coefficient": {
            "algorithm": "grpo",
            "responses_per_prompt": 4,
            "value_warmup_updates": 0,
        },
        "preferences in place of rollouts": {
            "algorithm": "dpo",
            "value_warmup_updates": 0,
            "kl_target": None,
            "micro_batch_size": 3,
            "dpo": DpoSettings(batch_size=8, epochs=2, measurements=3, label_smoothing=0.1),
        },
    },
}
"""By loop, the settings that differ from those in `resuming`, under what they are."""

SECTIONS: dict[str, type[Settings]] = {
    "sft": SftSettings,
    "reward_model": RewardModelSettings,
    "ppo": PpoSettings,
}

CARRY_NOTHING: dict[str, set[str]] = {
    "sft": {
        "batch_size",
        "learning_rate",
        "final_learning_rate_share",
        "warmup_share",
        "max_grad_norm",
        "samples",  # how many there are; every case carries some
        "sample_temperature",
        "long_responses",  # before training
        "pretraining_share",  # before training
        "max_truncated_share",
    },
    "reward_model": {
        "epochs",
        "batch_size",
        "learning_rate",
        "final_learning_rate_share",
        "warmup_share",
        "weight_decay",
        "max_grad_norm",
        "token_loss_weight",  # the head it brings is part of every case
        "collect",  # before training, and again where it is continued
        "loss",
        "pretrained",  # instead of training
        "ties",
        "tie_weight",
        "margins",
        "label_smoothing",
        "seeds",  # whole trainings, each with checkpoints of its own
        "held_out",
        "held_out_share",
        "normalize",  # after training
        "normalize_on",
        "scorecard_samples",
        "normalization_rows",
    },
    "ppo": {
        "updates",
        "rollout_batch_size",
        "mini_batch_size",
        "learning_rate",
        "warmup_updates",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
        "temperature",
        "kl_coef",
        "rewards",
        "ensemble_score",
        "ensemble_k",
        "gate",  # before training
        "gamma",
        "gae_lambda",
        "clip_range",
        "value_clip_range",
        "value_coef",
        "divide_by_group_deviation",
        "missing_eos_score",
        "missing_eos_penalty",
        "value_init",  # before training
        "sft_epoch",  # before training
        "published_weights",  # after training
        "profile",  # other values of the other settings
    },
}
"""Settings that are a number in a step's arithmetic: the same in all, or counted from the step."""


@pytest.mark.parametrize("name, case", [(name, case) for name in CASES for case in CASES[name]])
def test_a_loop_resumes_exactly_with(name: str, case: str, tmp_path: Path):
    resumes_exactly(name, tmp_path, **CASES[name][case])


@pytest.mark.parametrize("name", CASES)
def test_no_setting_is_forgotten(name: str):
    cases = {field for changes in CASES[name].values() for field in changes}
    fields = set(SECTIONS[name].model_fields)
    assert fields - cases - CARRY_NOTHING[name] == set(), (
        "make a case of what carries state from step to step, and list the others in CARRY_NOTHING"
    )
    assert CARRY_NOTHING[name] <= fields - cases
