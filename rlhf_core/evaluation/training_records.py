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
    """The reports of the trainings, in order, and the scorecard; None without a reward model."""

    sft: History
    reward_model: History
    ppo: History
    scorecard: Mapping[str, Any] | None


def read_training_records(*, sft: Path, reward_model: Path | None, ppo: Path) -> TrainingRecords:
    """The histories of the artifacts, and reward_model/scorecard.json where there is one."""
    if reward_model is None:
        return TrainingRecords(read_history(sft), (), read_history(ppo), None)
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
