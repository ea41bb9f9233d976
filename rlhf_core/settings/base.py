"""What every settings model shares: frozen, closed and strict."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Stage = Literal["data", "sft", "reward_model", "ppo", "evaluation"]

STAGES: tuple[Stage, ...] = ("data", "sft", "reward_model", "ppo", "evaluation")
"""In the order in which they run; each takes artifacts of earlier ones only."""


class Settings(BaseModel):
    """Frozen and closed: a misspelt field is an error, never a silent default.

    Strict: a string is never taken for a number, nor a number for a truth value.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class LoraSettings(Settings):
    """Train a low-rank adapter (arXiv:2106.09685) instead of all weights; merged when published."""

    rank: int = Field(default=16, ge=1)
    """Rank of the adapter's matrices."""

    alpha: int = Field(default=32, ge=1)
    """The adapter's output is scaled by alpha / rank."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input; must be 0 in reward_model and ppo."""

    target_modules: tuple[str, ...] = Field(default=("all-linear",), strict=False)
    """Names of the modules that get an adapter, or `all-linear` alone."""


def with_usual_learning_rate(values: object, *, full: float, adapter: float) -> object:
    """The raw values of a section, its learning rate filled in where the recipe gives none.

    Adapters start at 0 and are small: they usually take about ten times the rate of all weights
    or more (arXiv:2106.09685, table 11; arXiv:2305.14314, table 9).
    """
    if not isinstance(values, Mapping) or "learning_rate" in values:
        return values
    return {**values, "learning_rate": full if values.get("lora") is None else adapter}
