"""Published settings of PPO as one word: what a profile says where the recipe says nothing.

The numbers are those of the papers where they state one; what they leave open is the default of its
field. A profile speaks of the `ppo` section alone: InstructGPT's SFT for PPO has two epochs and a
tenth of pretraining data, N+'s one epoch over all tokens.
"""

from collections.abc import Mapping
from typing import Any, Literal

Profile = Literal["none", "instructgpt", "n_plus"]

INSTRUCTGPT: Mapping[str, Any] = {
    "updates": 500,  # 256,000 episodes
    "rollout_batch_size": 512,
    "mini_batch_size": 64,
    "ppo_epochs": 1,
    "learning_rate": 8e-6,  # above 8.05e-6 every run without plain text diverged (E.9)
    "value_learning_rate": 9e-6,
    "learning_rate_schedule": "constant",
    "warmup_updates": 10,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-5,
    "temperature": 1.0,
    "kl_coef": 0.02,
    "kl_target": None,
    "gamma": 1.0,
    "gae_lambda": 0.95,  # not stated; that of Stiennon and of Gao on the same environment
    "clip_range": 0.2,
    "value_network": "separate",
    "value_init": "reward_model",
    "ema_decay": 0.992,
    "published_weights": "average",  # presumably: the paper does not say which are released
}
"""arXiv:2203.02155, C.4, and section 6.3 of the specification ("paper")."""

INSTRUCTGPT_PTX: Mapping[str, Any] = {"coef": 27.8, "examples_per_episode": 8.0}
"""Where the recipe asks for `ptx`; its reduction is not stated, so the number may mean another."""

N_PLUS: Mapping[str, Any] = {
    "updates": 1953,  # 1,000,000 episodes
    "rollout_batch_size": 512,
    "mini_batch_size": 512,
    "ppo_epochs": 4,
    "learning_rate": 3e-6,
    "value_learning_rate": None,  # the policy's: one optimizer in the original
    "learning_rate_schedule": "linear",
    "warmup_updates": 10,
    "adam_beta2": 0.999,  # of torch, which the original leaves as it is
    "adam_epsilon": 1e-5,
    "max_grad_norm": 1.0,
    "temperature": 0.7,
    "kl_coef": 0.05,
    "kl_target": None,
    "gamma": 1.0,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "value_clip_range": 0.2,
    "value_coef": 0.1,
    "whiten_rewards": False,
    "whiten_advantages": "rollout",
    "missing_eos": "replace",
    "missing_eos_score": -1.0,
    "value_network": "separate",
    "value_init": "reward_model",
    "ptx": None,
    "ema_decay": None,
}
"""arXiv:2403.17031, made safe for small models: section 6.3 of the specification ("safe-small")."""

PROFILES: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "instructgpt": INSTRUCTGPT,
    "n_plus": N_PLUS,
}


def filled_in(given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given, and what its profile says of the rest; an unknown profile says nothing."""
    profile = given.get("profile", "none")
    values = {**PROFILES.get(profile, {}), **given} if isinstance(profile, str) else dict(given)
    ptx = values.get("ptx")
    if profile == "instructgpt" and isinstance(ptx, dict):
        ratio = ptx.get("grad_norm_ratio") is not None
        of_paper = {k: v for k, v in INSTRUCTGPT_PTX.items() if not (ratio and k == "coef")}
        values["ptx"] = {**of_paper, **ptx}
    return values
