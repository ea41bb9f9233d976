"""What SFT writes down beside the policy, to be read by a person (details S9 and section 6.4)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from rlhf_core.batches import Encoder
from rlhf_core.training.demonstrations import Demonstrations

EXAMPLES = "examples.jsonl"
SAMPLES = "samples.jsonl"
TRUNCATION = "truncation.json"

SHOWN_EXAMPLES = 5
"""Training examples that are kept as they are read: ids, tokens and what is learnt."""


class Example(NamedTuple):
    """One demonstration as training reads it; equal positions belong together."""

    file: str
    line: int
    ids: list[int]
    tokens: list[str]
    learnt: list[bool]


class Sample(NamedTuple):
    """A response of the policy after one epoch."""

    epoch: int
    prompt: str
    response: str
    ended: bool
    tokens: int
    reference: str


def examples(encoder: Encoder, rows: Demonstrations, table: pd.DataFrame) -> list[Example]:
    """The first demonstrations as ids, each beside the text of its own that it stands for."""
    shown = []
    for row in range(min(SHOWN_EXAMPLES, len(table))):
        ids = [*rows.prompts[row], *rows.responses[row]]
        shown.append(
            Example(
                str(table.file[row]),
                int(table.line[row]),
                ids,
                [str(encoder.tokenizer.decode([token])) for token in ids],
                [*[False] * len(rows.prompts[row]), *rows.labels(row)],
            )
        )
    return shown


def samples(
    encoder: Encoder, by_epoch: Mapping[int, Sequence[Sequence[int]]], table: pd.DataFrame
) -> list[Sample]:
    """The samples of every epoch as text; `table` has the rows whose prompts were answered."""
    return [
        Sample(
            epoch,
            str(table.prompt[row]),
            text,
            ended=bool(ids) and ids[-1] == encoder.eos_token_id,
            tokens=len(ids),
            reference=str(table.response[row]),
        )
        for epoch, rows in by_epoch.items()
        for row, (ids, text) in enumerate(zip(rows, encoder.texts(rows), strict=True))
    ]


def write_lines(path: Path, records: Sequence[Example] | Sequence[Sample]) -> None:
    """One JSON object a line."""
    lines = [json.dumps(record._asdict(), ensure_ascii=False) for record in records]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="\n")
