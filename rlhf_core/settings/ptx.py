"""Settings of PPO-ptx: plain text beside PPO."""

from typing import Self

from pydantic import Field, model_validator

from rlhf_core.settings.base import Settings


class PtxSettings(Settings):
    """Go on learning plain text while PPO runs, so that less is lost (arXiv:2203.02155, eq. 2).

    Each step of the policy follows the gradient of PPO plus `coef` times that of the mean negative
    log-likelihood of a token of plain text; both are accumulated before the step.
    """

    coef: float | None = Field(default=None, gt=0)
    """Weight of the text's gradient. The paper's 27.8 stands beside a loss whose reduction it does
    not state, so it need not mean the same here."""

    grad_norm_ratio: float | None = Field(default=None, gt=0)
    """Instead: let the weight follow the gradients, so that the text's is this many times as long
    as PPO's; of both lengths the running mean counts."""

    examples_per_episode: float = Field(default=1.0, gt=0)
    """Examples beside each response of an optimizer step; 8 in the paper."""

    max_tokens: int = Field(default=128, ge=2)
    """Tokens of an example; a longer text is cut into several."""

    micro_batch_size: int | None = Field(default=None, ge=1)
    """Examples per forward pass; all of a step's at once when not given."""

    @model_validator(mode="after")
    def _one_weight(self) -> Self:
        if (self.coef is None) == (self.grad_norm_ratio is None):
            raise ValueError(
                "ptx needs exactly one of `coef` (27.8 in the paper) and `grad_norm_ratio` (1 to "
                "let text and PPO pull alike)."
            )
        return self
