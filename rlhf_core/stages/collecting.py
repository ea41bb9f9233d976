"""Preferences that the reward-model stage collects from the SFT policy before it is taught."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from rlhf_core.collection import Collected, Draws, Group, collect_from
from rlhf_core.data.rows import comparable_key
from rlhf_core.data.splits import held_out_keys
from rlhf_core.errors import DataError
from rlhf_core.ranking import judged, labeled, load_labeler
from rlhf_core.report import Report
from rlhf_core.settings.collection import CollectionSettings
from rlhf_core.settings.model import ModelSettings
from rlhf_core.tables import read_prompts

COLLECTED = "collected.jsonl"

SETTING = "reward_model.collect"


class Preferences(NamedTuple):
    """Rankings as `tables.read_preferences` gives them, and counts for the stage's metrics."""

    train: pd.DataFrame
    validation: pd.DataFrame
    metrics: dict[str, float]


def collected_preferences(
    settings: CollectionSettings,
    model: ModelSettings,
    *,
    data: Path,
    sft: Path,
    out_dir: Path,
    report: Report,
    seed: int,
) -> Preferences:
    """Let the SFT policy answer training prompts, and the labeler or the judge rank them.

    `out_dir` holds every ranking as `collected.jsonl`, one to a line. Raises DataError where
    nothing is preferred.
    """
    rank = _ranker(settings, report)
    unlabeled = collect_from(
        sft,
        model,
        list(read_prompts(data, "train").prompt),
        Draws(settings.responses_per_prompt, settings.temperature, settings.batch_size),
        limit=settings.prompts,
        seed=seed,
        answered=lambda done, total: report(0, {"collected": done, "progress": done / total}),
    )
    collected = rank(unlabeled)
    ranked = [group for group in collected.groups if group.prefers]
    if len({comparable_key(group.prompt) for group in ranked}) < 2:
        raise DataError(
            f"{SETTING}: {settings.ranked_by} preferred a response in {len(ranked)} of "
            f"{len(collected.groups)} rankings, and two are the least: name one that tells "
            "responses apart."
        )
    lines = [json.dumps(group.as_row(), ensure_ascii=False) for group in ranked]
    text = "".join(line + "\n" for line in lines)
    (out_dir / COLLECTED).write_text(text, encoding="utf-8", newline="\n")
    return _split(ranked, settings.validation_share, collected, settings.ranked_by)


def _ranker(settings: CollectionSettings, report: Report) -> Callable[[Collected], Collected]:
    """What ranks the responses; a labeler that is not there is told before any is drawn."""
    judge = settings.judge
    if judge is None:
        labeler = load_labeler(settings.ranked_by, setting=f"{SETTING}.labeler")
        return lambda collected: labeled(collected, labeler)
    return lambda collected: judged(
        collected,
        judge,
        setting=f"{SETTING}.judge",
        answered=lambda done, total: report(0, {"judged": done, "progress": done / total}),
    )


def _split(
    ranked: Sequence[Group], share: float, collected: Collected, labeler: str
) -> Preferences:
    keys = [comparable_key(group.prompt) for group in ranked]
    held_out = held_out_keys(
        {"collected": set(keys)}, share, salt="collected-validation", split_by="prompt"
    )
    frame = pd.DataFrame(
        {
            "prompt": [group.prompt for group in ranked],
            "responses": [list(group.responses) for group in ranked],
            "ranks": [list(group.ranks or ()) for group in ranked],
            "source": labeler,
            "group": "",
            "margin": None,
            "confidence": "",
            "file": COLLECTED,
            "line": range(1, len(ranked) + 1),
        }
    )
    is_held_out = pd.Series([key in held_out for key in keys])
    return Preferences(
        frame[~is_held_out].reset_index(drop=True),
        frame[is_held_out].reset_index(drop=True),
        collected.metrics(),
    )
