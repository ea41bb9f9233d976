"""Settings of supervised fine-tuning."""

from typing import Literal

from pydantic import Field

from rlhf_core.settings.base import LoraSettings, Settings


class SftSettings(Settings):
    """Maximum likelihood on demonstrations (InstructGPT, arXiv:2203.02155, section 3.5)."""

    epochs: int = Field(default=1, ge=1)
    """Passes over the demonstrations."""

    batch_size: int = Field(default=32, ge=1)
    """Demonstrations per optimizer step."""

    micro_batch_size: int | None = Field(default=None, ge=1)
    """Demonstrations per forward pass, when fewer than `batch_size` fit in memory."""

    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate of AdamW."""

    final_learning_rate_share: float = Field(default=0.1, ge=0, le=1)
    """The cosine schedule ends at this share of the peak."""

    warmup_share: float = Field(default=0.03, ge=0, lt=1)
    """Share of all steps over which the learning rate rises linearly from 0."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of AdamW."""

    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""

    loss_on: Literal["response", "all"] = "response"
    """Tokens that are learnt: of the response only, or of the prompt too (N+, arXiv:2403.17031)."""

    evaluations_per_epoch: int = Field(default=1, ge=1)
    """How often the validation loss is measured; the best state is kept."""

    patience: int | None = Field(default=None, ge=1)
    """Stop after this many evaluations without a better validation loss."""

    lora: LoraSettings | None = None
    """Train an adapter instead of all weights."""
