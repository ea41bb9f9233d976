"""Settings of PPO."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from rlhf_core.settings.algorithms import Algorithm, DpoSettings, check_effects, check_groups
from rlhf_core.settings.base import LoraSettings, Settings, with_usual_learning_rate
from rlhf_core.settings.course import CourseSettings
from rlhf_core.settings.gate import GateSettings
from rlhf_core.settings.ppo_profiles import Profile, filled_in
from rlhf_core.settings.ptx import PtxSettings
from rlhf_core.settings.rewards import EnsembleScore, RewardSettings, ScoringSettings
from rlhf_core.settings.sentinel import PpoSentinelSettings

FULL_LEARNING_RATE, ADAPTER_LEARNING_RATE = 3e-6, 3e-5
"""N+'s for all weights (detail P13), and ten times that for adapters."""


class PpoSettings(Settings):
    """Proximal policy optimization against the reward model, with a KL penalty to the SFT model.

    The algorithm is arXiv:1707.06347; its use on language models follows arXiv:1909.08593,
    arXiv:2203.02155 and arXiv:2403.17031 ("N+"). Other algorithms are there to compare it with.
    """

    algorithm: Algorithm = "ppo"
    """`ppo`; `rloo` (arXiv:2402.14740), whose baseline is the mean reward of a prompt's other
    responses; `grpo` (arXiv:2402.03300), whose advantage is a response's score among those of its
    prompt, with the KL in the loss; or `dpo` (arXiv:2305.18290), which learns from the preferences
    and uses the reward model to measure only. The last three have no value model."""

    profile: Profile = "none"
    """Published settings in place of the defaults below: `instructgpt` or `n_plus`; what the recipe
    says itself comes first."""

    sft_epoch: int | None = Field(default=None, ge=1)
    """Start from this epoch of SFT, which has to be kept (`sft.keep_epochs`), and not from the
    published weights; see `sft.selection` for a choice by the reward model."""

    updates: int = Field(default=100, ge=1)
    """Rounds of rollout and optimization."""

    rollout_batch_size: int = Field(default=64, ge=2)
    """Responses generated before each round of optimization, over all processes."""

    responses_per_prompt: int = Field(default=1, ge=1)
    """Responses to each prompt of a rollout; `rloo` and `grpo` need at least 2."""

    mini_batch_size: int = Field(default=16, ge=1)
    """Responses per optimizer step."""

    micro_batch_size: int | None = Field(default=None, ge=1)
    """Responses per forward pass, when fewer than `mini_batch_size` fit in memory."""

    ppo_epochs: int = Field(default=4, ge=1)
    """Passes over each rollout."""

    learning_rate: float = Field(default=FULL_LEARNING_RATE, gt=0)
    """Peak learning rate of the policy; where none is given, 3e-6 for all weights and 3e-5 for the
    adapter of `lora`."""

    value_learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of the value model; the policy's when not given."""

    learning_rate_schedule: Literal["linear", "constant", "cosine"] = "linear"
    """After warm-up: down to 0 over the updates, constant, or along half a cosine to a tenth."""

    warmup_updates: int = Field(default=10, ge=0)
    """Updates over which the learning rate rises from a tenth of its peak."""

    adam_beta2: float = Field(default=0.95, gt=0, lt=1)
    """Second-moment decay of Adam (arXiv:2203.02155, C.4)."""

    adam_epsilon: float = Field(default=1e-5, gt=0)
    """Adam's epsilon; 1e-5 in every published run (detail P11)."""

    adam_epsilon_style: Literal["torch", "tensorflow"] = "torch"
    """Epsilon beside the corrected second moment, or beside the biased one: TensorFlow's Adam takes
    far smaller first steps where gradients are tiny (detail P12)."""

    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients of policy and value model are scaled down to this norm, each apart."""

    temperature: float = Field(default=1.0, gt=0)
    """Divides the logits in the sampler and in every log-probability alike (detail P2)."""

    kl_coef: float = Field(default=0.05, ge=0)
    """Weight of the per-token KL penalty that keeps the policy near the SFT model."""

    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    """Estimate of the KL that is taken off the reward; k2 and k3 are never negative, but their
    gradient is not that of the KL (section 3.5)."""

    kl_target: float | None = Field(default=None, gt=0)
    """Sequence KL in nats towards which `kl_coef` is adapted (arXiv:1909.08593, 2.2)."""

    kl_horizon: int = Field(default=10_000, ge=1)
    """Episodes over which the adaptive coefficient reacts."""

    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount per token."""

    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """Bias against variance of the advantage estimate (arXiv:1506.02438)."""

    clip_range: float = Field(default=0.2, gt=0)
    """How far the ratio new / old may move before its gradient stops."""

    dual_clip: float | None = Field(default=None, gt=1)
    """Bound on the ratio of a token that was bad, 3 in arXiv:1912.09729 (detail P23)."""

    value_clip_range: float = Field(default=0.2, gt=0)
    """How far a value may move from its rollout estimate within one update."""

    loss_reduction: Literal["token_mean", "micro_batch_mean", "sequence_mean", "sequence_sum"] = (
        "token_mean"
    )
    """What both losses are a mean over: all tokens of an optimizer step; the tokens of each
    micro-batch, as in N+; the mean, or the sum, over each response's tokens (detail P24)."""

    whiten_advantages: Literal["rollout", "mini_batch", "nothing"] = "rollout"
    """Over which tokens advantages of `ppo` are brought to mean 0 and variance 1; those of `rloo`
    and `grpo` are relative to their group already and stay as they are."""

    whiten_rewards: bool = False
    """Divide rewards by their deviation without a mean shift; not neutral (section 3.6)."""

    score_at: Literal["eos", "after_eos"] = "eos"
    """Token that receives the score: the end token, or the one after it as in N+ and TRL."""

    missing_eos: Literal["replace_low", "replace", "subtract"] = "replace_low"
    """A response that did not end gets `missing_eos_score` for its score, or the 5th percentile of
    the reference's own scores where that is lower; `missing_eos_score` in any case; or its score
    less `missing_eos_penalty`, with which it can still beat one that ended (P5 to P7)."""

    missing_eos_score: float = -1.0
    """Replaces the score of a response that did not end."""

    missing_eos_penalty: float = Field(default=1.0, gt=0)
    """Taken off the score of a response that did not end, where `missing_eos` is `subtract`."""

    scale_scores: bool = False
    """Divide scores by the standard deviation of all that came before, without a mean shift
    (PPO-max, arXiv:2307.04964)."""

    rewards: tuple[RewardSettings, ...] = Field(
        default=(RewardSettings(),), min_length=1, strict=False
    )
    """What a response is paid for, added up: the reward model, functions, or both."""

    ensemble_score: EnsembleScore = "mean"
    """How the scores of an ensemble's members become one: the mean, or with caution the least, or
    the mean less `ensemble_k` deviations (arXiv:2310.02743)."""

    ensemble_k: float = Field(default=1.0, ge=0)
    """Deviations over the members that `mean_minus_k_std` takes off."""

    gate: GateSettings = GateSettings()
    """What is asked of the reward model before PPO starts."""

    reward_clip: float | None = Field(default=None, gt=0)
    """Bound on the size of a score, after `scale_scores`."""

    surrogate: Literal["clipped", "reinforce"] = "clipped"
    """Policy loss of `rloo`: PPO's clipped one, or -advantage * log-probability. Both have the same
    gradient in the first step on a rollout."""

    divide_by_group_deviation: bool = True
    """Divide the advantages of `grpo` by the deviation of their group's scores; without it hard and
    easy prompts weigh alike ("Dr. GRPO", arXiv:2503.20783)."""

    value_network: Literal["separate", "shared_trunk"] = "separate"
    """The value model is a network of its own, or a head on the policy's trunk that starts at zero
    and is trained with the policy by one optimizer (arXiv:1909.08593; details P16 and P17)."""

    value_coef: float = Field(default=0.1, gt=0)
    """Weight of the value loss beside the policy's with `shared_trunk` (detail P17)."""

    value_init: Literal["reward_model", "sft"] = "reward_model"
    """Where the value model's weights come from; from `sft` its head starts at zero."""

    value_warmup_updates: int = Field(default=0, ge=0)
    """First updates that train the value model only."""

    max_approx_kl: float | None = Field(default=None, gt=0)
    """End an update's optimization early once the policy moved this far within it."""

    ptx: PtxSettings | None = None
    """Go on learning the plain text of `data.text` beside; off without a reason to keep it."""

    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Average the policy's weights over optimizer steps, .992 in arXiv:2203.02155 (detail P25)."""

    published_weights: Literal["last", "average"] = "last"
    """Which weights become the policy of the artifact; with `ema_decay` the others lie beside."""

    course: CourseSettings | None = None
    """Keep policies along the way, and choose the artifact's among them if asked."""

    lora: LoraSettings | None = None
    """Train adapters on policy and value model instead of all weights."""

    dpo: DpoSettings = DpoSettings()
    """What only `dpo` reads."""

    sentinel: PpoSentinelSettings = PpoSentinelSettings()
    """What is watched, and when it warns or stops training."""

    @model_validator(mode="before")
    @classmethod
    def _usual_learning_rate(cls, values: object) -> object:
        return with_usual_learning_rate(
            values, full=FULL_LEARNING_RATE, adapter=ADAPTER_LEARNING_RATE
        )

    @property
    def starts_value_from_reward_model(self) -> bool:
        """Whether there is a value model whose weights are at first the reward model's."""
        apart = self.algorithm == "ppo" and self.value_network == "separate"
        return apart and self.value_init == "reward_model"

    @property
    def scoring(self) -> ScoringSettings:
        """The part that decides what a response is paid."""
        return ScoringSettings(
            rewards=self.rewards,
            ensemble_score=self.ensemble_score,
            ensemble_k=self.ensemble_k,
        )

    @model_validator(mode="before")
    @classmethod
    def _profile_fills_in(cls, given: Any) -> Any:
        return filled_in(given) if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _rewards_are_distinct(self) -> Self:
        sources = [reward.source for reward in self.rewards]
        if len(set(sources)) < len(sources):
            raise ValueError(
                f"ppo.rewards names a source twice ({', '.join(sources)}): add up its "
                "weights and name it once."
            )
        if self.scoring.reward_model_weight is None and self.starts_value_from_reward_model:
            raise ValueError(
                "ppo.rewards are functions alone, so there is no reward model for the value model "
                "to start from: set ppo.value_init=sft."
            )
        return self

    @model_validator(mode="after")
    def _batches_are_even(self) -> Self:
        if self.rollout_batch_size % self.mini_batch_size:
            raise ValueError(
                f"rollout_batch_size={self.rollout_batch_size} is not a multiple of "
                f"mini_batch_size={self.mini_batch_size}: choose one that is."
            )
        if self.micro_batch_size is not None and self.micro_batch_size > self.mini_batch_size:
            raise ValueError(
                f"micro_batch_size={self.micro_batch_size} is larger than "
                f"mini_batch_size={self.mini_batch_size}: make it at most as large."
            )
        if self.lora is not None and self.lora.dropout > 0:
            raise ValueError(
                "ppo.lora.dropout must be 0: with dropout the ratio of an unchanged policy is not "
                "1 (detail P20)."
            )
        if self.value_network == "shared_trunk" and self.score_at == "after_eos":
            raise ValueError(
                "ppo.score_at='after_eos' gives a value to a state that is no action, for which a "
                "shared trunk has no place: keep value_network='separate', or score_at='eos'."
            )
        if self.published_weights == "average" and self.ema_decay is None:
            raise ValueError(
                "published_weights=average, but no average is kept: give ppo.ema_decay, 0.992 in "
                "the paper, or publish the last weights."
            )
        chooses = self.course is not None and self.course.choose != "last"
        if self.published_weights == "average" and chooses:
            raise ValueError(
                "published_weights=average and course.choose both say which weights are the "
                "artifact's: keep one of them."
            )
        if self.value_warmup_updates >= self.updates:
            raise ValueError(
                f"value_warmup_updates={self.value_warmup_updates} leaves none of "
                f"updates={self.updates} to the policy: make it smaller."
            )
        return self

    @model_validator(mode="after")
    def _every_setting_has_an_effect(self) -> Self:
        check_groups(dict(self))
        check_effects(dict(self), type(self).model_fields)
        return self
