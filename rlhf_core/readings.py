"""How a model read a few texts when it was published, for later stages to compare.

A later stage encodes the same texts and asks the same model: another template, a lost space,
another tokenizer, read-out or position changes the numbers, and no reward curve would show it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

READINGS = "readings.json"
KEPT = 16
"""Texts that are kept: enough to see any difference in how text becomes numbers."""


class ReadText(NamedTuple):
    """A text of the data, and the number that the model gave it."""

    prompt: str
    response: str
    value: float


def write_readings(folder: Path, readings: Sequence[ReadText]) -> None:
    """Write the readings beside the model."""
    rows = [reading._asdict() for reading in readings]
    text = json.dumps(rows, indent=1, ensure_ascii=False)
    (folder / READINGS).write_text(text + "\n", encoding="utf-8", newline="\n")


def read_readings(folder: Path | None) -> list[ReadText]:
    """The readings in the folder; none where the model was published without."""
    path = None if folder is None else folder / READINGS
    if path is None or not path.is_file():
        return []
    return [ReadText(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
