"""The tables, each row on its side: train, validation or evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rlhf_core.data.rows import Row
from rlhf_core.data.schemas import TableName
from rlhf_core.data.splits import held_out_keys
from rlhf_core.settings.data import DataSettings

Splits = Mapping[str, Sequence[Row]]


@dataclass(frozen=True, slots=True)
class Sides:
    """Rows by split; no key of a validation or evaluation side stands on a training side."""

    demonstrations: Splits
    preferences: Splits
    prompts: Splits
    text: Splits
    removed: Mapping[str, int]
    """Rows of each table that stand on no side, since their key is held out of that table."""

    def tables(self) -> dict[TableName, Splits]:
        """The tables by name."""
        return {
            "demonstrations": self.demonstrations,
            "preferences": self.preferences,
            "prompts": self.prompts,
            "text": self.text,
        }


def split_tables(tables: Mapping[TableName, Sequence[Row]], settings: DataSettings) -> Sides:
    """Evaluation prompts are seen by no training stage, validation rows by no training step.

    A text that begins with an evaluation prompt is trained on by nobody. Prompts that are not given
    are those of the demonstrations, and demonstrations that are not given are the best responses of
    the preferences' training side, split once more.
    """
    demonstrations = tables.get("demonstrations", ())
    preferences = tables.get("preferences", ())
    prompts = tables.get("prompts", _distinct_prompts(demonstrations))
    evaluation = held_out_keys(
        {"prompts": {row.key for row in prompts}},
        settings.evaluation_share,
        salt="evaluation",
        split_by=settings.split_by,
    )
    seen = {
        "demonstrations": _outside(demonstrations, evaluation),
        "preferences": _outside(preferences, evaluation),
    }
    validation = held_out_keys(
        {table: {row.key for row in rows} for table, rows in seen.items()},
        settings.validation_share,
        salt="validation",
        split_by=settings.split_by,
    )
    preference_sides = _sides(seen["preferences"], validation)
    if "demonstrations" in tables:
        demonstration_sides = _sides(seen["demonstrations"], validation)
    else:
        demonstration_sides = _best_responses(preference_sides["train"], settings)
    prompt_sides = {
        "train": _outside(prompts, evaluation | validation),
        "evaluation": [row for row in prompts if row.key in evaluation],
    }
    text = tables.get("text", ())
    apart = _not_beginning_with(text, [row.prompt for row in prompt_sides["evaluation"]])
    removed = {
        "demonstrations": len(demonstrations) - len(seen["demonstrations"]),
        "preferences": len(preferences) - len(seen["preferences"]),
        "prompts": len(prompts) - sum(len(rows) for rows in prompt_sides.values()),
        "text": len(text) - len(apart),
    }
    text_sides = _sides(apart, _held_out_text(apart, settings))
    return Sides(demonstration_sides, preference_sides, prompt_sides, text_sides, removed)


def _held_out_text(rows: Sequence[Row], settings: DataSettings) -> frozenset[str]:
    """The texts kept for validation; they are split for themselves, and change no other table."""
    return held_out_keys(
        {"text": {row.key for row in rows}},
        settings.validation_share,
        salt="text-validation",
        split_by="text",
    )


def _not_beginning_with(rows: Sequence[Row], prompts: Sequence[str]) -> list[Row]:
    """The texts that begin with none of the prompts."""
    prompts_of_length: dict[int, set[str]] = {}
    for prompt in prompts:
        prompts_of_length.setdefault(len(prompt), set()).add(prompt)
    return [
        row
        for row in rows
        if not any(row.prompt[:length] in some for length, some in prompts_of_length.items())
    ]


def _best_responses(rows: Sequence[Row], settings: DataSettings) -> Splits:
    best = [replace(row, responses=(row.best,), ranks=()) for row in rows if row.best is not None]
    distinct = list({(row.prompt, row.best): row for row in reversed(best)}.values())[::-1]
    validation = held_out_keys(
        {"demonstrations": {row.key for row in distinct}},
        settings.validation_share,
        salt="sft-validation",
        split_by=settings.split_by,
    )
    return _sides(distinct, validation)


def _distinct_prompts(rows: Sequence[Row]) -> Sequence[Row]:
    """The first row of each prompt."""
    return list({row.prompt: row for row in reversed(rows)}.values())[::-1]


def _sides(rows: Sequence[Row], validation: frozenset[str]) -> Splits:
    return {
        "train": _outside(rows, validation),
        "validation": [row for row in rows if row.key in validation],
    }


def _outside(rows: Sequence[Row], held_out: frozenset[str]) -> list[Row]:
    return [row for row in rows if row.key not in held_out]
