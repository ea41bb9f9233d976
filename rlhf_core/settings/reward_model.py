"""Settings of the reward model."""

from typing import Literal, Self

from pydantic import Field, model_validator

from rlhf_core.settings.base import LoraSettings, Settings
from rlhf_core.settings.collection import CollectionSettings


class RewardModelSettings(Settings):
    """A scalar head on the SFT model, taught by comparisons (arXiv:2203.02155, eq. 1)."""

    epochs: int = Field(default=1, ge=1)
    """Passes over the preferences; more than one over-fits (arXiv:2203.02155, C.2)."""

    batch_size: int = Field(default=32, ge=1)
    """Prompts per optimizer step; all ranked responses of a prompt stay in one step."""

    micro_batch_size: int | None = Field(default=None, ge=1)
    """Prompts per forward pass, when fewer than `batch_size` fit in memory."""

    learning_rate: float = Field(default=9e-6, gt=0)
    """Peak learning rate of AdamW."""

    final_learning_rate_share: float = Field(default=0.1, ge=0, le=1)
    """The cosine schedule ends at this share of the peak."""

    warmup_share: float = Field(default=0.03, ge=0, lt=1)
    """Share of all steps over which the learning rate rises linearly from 0."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of AdamW."""

    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""

    mismatch_rows: int = Field(default=0, ge=0)
    """Demonstrations from which the model first learns what belongs to a prompt: each response to
    its own prompt is ranked above the same response to other prompts. It is preference-model
    pre-training (arXiv:2112.00861, section 4) on comparisons that need no label."""

    mismatch_group_size: int = Field(default=2, ge=2)
    """Demonstrations that serve one another as the other prompts in that; a batch holds as many
    groups as fit in it."""

    mismatch_learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of that; `learning_rate` when not given."""

    token_loss_weight: float = Field(default=0.0, ge=0)
    """Weight of the same loss on the sum over the response's tokens of a second head, which reads
    one layer below the last and is dropped after training. Each token gets a gradient of its own,
    from which a small model learns what fits the prompt in hundreds of steps."""

    normalize_on: Literal["demonstrations", "nothing"] = "demonstrations"
    """After training, shift the head's bias so that these responses score 0 in the mean."""

    normalization_rows: int = Field(default=512, ge=1)
    """How many of them are scored for that."""

    collect: CollectionSettings | None = None
    """Let the SFT policy answer training prompts and a labeler rank the answers, instead of taking
    the rankings from `data.preferences`."""

    lora: LoraSettings | None = None
    """Train an adapter and the head instead of all weights."""

    @model_validator(mode="after")
    def _no_dropout(self) -> Self:
        if self.lora is not None and self.lora.dropout > 0:
            raise ValueError(
                "reward_model.lora.dropout must be 0: both responses of a pair have to be scored "
                "by the same function."
            )
        return self
