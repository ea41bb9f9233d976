"""Settings of supervised fine-tuning."""

from typing import Literal

from pydantic import Field, model_validator

from rlhf_core.settings.base import LoraSettings, Settings, with_usual_learning_rate
from rlhf_core.settings.sentinel import SupervisedSentinelSettings

FULL_LEARNING_RATE = 1e-5
"""InstructGPT's for 1.3B and 6B parameters (arXiv:2203.02155, C.1), rounded."""

ADAPTER_LEARNING_RATE = 2e-4
"""QLoRA's for 7B and 13B parameters (arXiv:2305.14314, table 9)."""


class SftSettings(Settings):
    """Maximum likelihood on demonstrations (InstructGPT, arXiv:2203.02155, section 3.5)."""

    epochs: int = Field(default=1, ge=1)
    """Passes over the demonstrations."""

    batch_size: int = Field(default=32, ge=1)
    """Demonstrations per optimizer step."""

    micro_batch_size: int | None = Field(default=None, ge=1)
    """Demonstrations per forward pass, when fewer than `batch_size` fit in memory."""

    learning_rate: float = Field(default=FULL_LEARNING_RATE, gt=0)
    """Peak learning rate of AdamW; where none is given, 1e-5 for all weights and 2e-4 for the
    adapter of `lora`."""

    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warm-up: along half a cosine, along a line, or not at all."""

    final_learning_rate_share: float = Field(default=0.1, ge=0, le=1)
    """The cosine and the line end at this share of the peak: 0.1 as InstructGPT, 0 as N+."""

    warmup_share: float = Field(default=0.03, ge=0, lt=1)
    """Share of all steps over which the learning rate rises linearly from 0."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of AdamW."""

    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of what each block adds to the residual stream that is dropped in training
    (arXiv:2203.02155, C.1: 0.2); the later stages always train without."""

    loss_on: Literal["response", "assistant", "all"] = "response"
    """Tokens that are learnt: of the response only, of every turn of the assistant's (which needs a
    chat template), or of the prompt too (N+, arXiv:2403.17031)."""

    pretraining_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of plain text among the examples, every token of which is learnt: 0.1 in the run from
    which InstructGPT starts PPO (arXiv:2203.02155, C.3). The validation loss is that of the
    demonstrations alone."""

    packing: bool = False
    """Lay the demonstrations of a forward pass end to end in rows without padding; none attends to
    another, and the loss and its gradient are those without it."""

    evaluations_per_epoch: int = Field(default=1, ge=1)
    """How often the validation loss is measured."""

    selection: Literal["validation_loss", "last", "reward_model_score"] = "validation_loss"
    """Weights that become the policy: those of the best evaluation, or the last ones. With
    `reward_model_score` (arXiv:2203.02155, C.1) they are those of the best evaluation too, every
    epoch is kept, and stage ppo starts from the epoch whose samples the reward model likes best."""

    keep_epochs: bool = False
    """Keep each epoch's weights in the artifact as well, under `epochs/`; they travel with every
    checkpoint until then, so that adapters cost little and large models much."""

    patience: int | None = Field(default=None, ge=1)
    """Stop after this many evaluations without a better validation loss."""

    samples: int = Field(default=16, ge=0)
    """Validation prompts that the policy answers after each epoch; how much the answers repeat
    themselves and whether they end is reported, and said where it is bad."""

    sample_temperature: float = Field(default=0.0, ge=0)
    """Temperature of these samples; 0 takes the most likely token, as arXiv:2009.01325 evaluates
    its SFT models, and shows loops that sampling hides."""

    long_responses: Literal["drop", "cut"] = "drop"
    """What happens to a demonstration whose response is over `model.max_response_tokens`: its row
    is dropped, or the response is cut and no end token put behind it."""

    max_truncated_share: float = Field(default=0.2, ge=0, le=1)
    """Refuse demonstrations of which more than this share was dropped or cut for its length."""

    lora: LoraSettings | None = None
    """Train an adapter instead of all weights."""

    sentinel: SupervisedSentinelSettings = SupervisedSentinelSettings()
    """What is watched, and when it warns or stops training."""

    @property
    def keeps_epochs(self) -> bool:
        """Whether the artifact holds each epoch's weights."""
        return self.keep_epochs or self.selection == "reward_model_score"

    @model_validator(mode="before")
    @classmethod
    def _usual_learning_rate(cls, values: object) -> object:
        return with_usual_learning_rate(
            values, full=FULL_LEARNING_RATE, adapter=ADAPTER_LEARNING_RATE
        )
