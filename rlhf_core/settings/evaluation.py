"""Settings of the evaluation."""

from typing import Self

from pydantic import Field, model_validator

from rlhf_core.named_functions import is_function_name
from rlhf_core.settings.base import Settings
from rlhf_core.settings.judge import JudgeSettings


class EvaluationSettings(Settings):
    """What is measured on prompts that no stage was trained on."""

    prompts: int = Field(default=256, ge=2)
    """Held-out prompts that are answered, at most."""

    best_of_n: int = Field(default=16, ge=2)
    """Responses per prompt from which best-of-n of the SFT policy picks."""

    best_of_n_prompts: int = Field(default=128, ge=2)
    """Held-out prompts on which best-of-n is measured, at most."""

    gold: str | None = None
    """`module:function` that grades responses as `function(prompts, responses, ended)` and returns
    one number in [0, 1] each; no training stage may see it."""

    judge: JudgeSettings | None = None
    """Ask a served language model too which of two responses is better."""

    texts: int = Field(default=256, ge=1)
    """Held-out plain texts, at most, on which the loss of both policies is measured, where the
    recipe has `data.text`."""

    bootstrap_samples: int = Field(default=2000, ge=100)
    """Resamplings behind each 95 % interval."""

    shown_samples: int = Field(default=12, ge=1)
    """Prompts whose responses stand side by side in the report."""

    batch_size: int = Field(default=128, ge=1)
    """Responses generated or scored at a time."""

    @model_validator(mode="after")
    def _gold_is_a_function(self) -> Self:
        if self.gold is not None and not is_function_name(self.gold):
            raise ValueError(
                f"gold={self.gold!r} is not of the form 'module:function', for example "
                "'my_package.grading:gold_scores'."
            )
        return self
