"""Settings of preferences that are collected from the SFT policy."""

from typing import Self

from pydantic import Field, model_validator

from rlhf_core.named_functions import is_function_name
from rlhf_core.settings.base import Settings
from rlhf_core.settings.judge import PairJudgeSettings


class CollectionSettings(Settings):
    """Responses of the SFT policy to training prompts, ranked at once by a labeler.

    InstructGPT collects its rankings so (arXiv:2203.02155, 3.2), with people as labelers.
    """

    labeler: str | None = None
    """`module:function` that is called as `function(prompts, responses)` and returns one finite
    number for each response: the higher, the better. Equal numbers are ties."""

    judge: PairJudgeSettings | None = None
    """A served language model instead, which compares each two responses to a prompt in both
    orders: K (K - 1) requests a prompt. A response ranks by its mean over the others, of 1 where
    both verdicts are for it, 0 where both are against it, and a half."""

    prompts: int = Field(default=1000, ge=2)
    """Training prompts that are answered, at most."""

    responses_per_prompt: int = Field(default=4, ge=2, le=9)
    """K of a ranking. Responses that did not end are left out, and equal ones count once."""

    temperature: float = Field(default=1.0, gt=0)
    """Of the sampler."""

    validation_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of the collected rankings kept for validation; a prompt stays on one side."""

    batch_size: int = Field(default=128, ge=1)
    """Responses generated at a time."""

    @model_validator(mode="after")
    def _somebody_ranks(self) -> Self:
        if (self.labeler is None) == (self.judge is None):
            raise ValueError(
                "reward_model.collect needs one who ranks the responses: give `labeler`, a "
                "function, or `judge`, a served model, and not both."
            )
        if self.labeler is not None and not is_function_name(self.labeler):
            raise ValueError(
                f"labeler={self.labeler!r} is not of the form 'module:function', for example "
                "'rlhf_core.labelers.sentiment:happiness'."
            )
        return self

    @property
    def ranked_by(self) -> str:
        """Who ranks: the function, or the judge by its model's name."""
        return self.labeler or (f"judge {self.judge.model}" if self.judge else "")
