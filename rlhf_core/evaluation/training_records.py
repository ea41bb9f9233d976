"""What the earlier stages wrote down: the course of each training, the reward model's scorecard."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_core.history import read_history


class Series(NamedTuple):
    """One metric by step."""

    steps: list[float]
    values: list[float]


History = Sequence[Mapping[str, float | None]]


@dataclass(frozen=True)
class TrainingRecords:
    """The reports of three trainings, in order, and the scorecard."""

    sft: History
    reward_model: History
    ppo: History
    scorecard: Mapping[str, Any]


def read_training_records(*, sft: Path, reward_model: Path, ppo: Path) -> TrainingRecords:
    """The histories of the three artifacts, and reward_model/scorecard.json."""
    scorecard = json.loads((reward_model / "scorecard.json").read_text(encoding="utf-8"))
    return TrainingRecords(
        read_history(sft), read_history(reward_model), read_history(ppo), scorecard
    )


def series(history: History, name: str) -> Series:
    """The finite numbers reported as `name`, by step."""
    found = Series([], [])
    for entry in history:
        step, value = entry["step"], entry.get(name)
        if step is not None and value is not None:
            found.steps.append(step)
            found.values.append(value)
    return found
