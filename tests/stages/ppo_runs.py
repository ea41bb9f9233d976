"""Short runs of the PPO stage on the small chain."""

from rlhf_core.report import ignore
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.stages.ppo import make_ppo

QUICK = PpoSettings(
    updates=2,
    rollout_batch_size=32,
    mini_batch_size=16,
    ppo_epochs=2,
    learning_rate=0.003,
    warmup_updates=0,
)


def make(chain, out_dir, *, model=None, data=None, reward_model=None, seed=1, **changes):
    out_dir.mkdir()
    return make_ppo(
        QUICK.model_copy(update=changes),
        model or chain.model,
        data=data or chain.data,
        sft=chain.sft,
        reward_model=reward_model or chain.reward_model,
        out_dir=out_dir,
        report=ignore,
        seed=seed,
    )
