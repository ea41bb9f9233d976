"""Which epoch of SFT a policy starts from: the published weights, or one of the kept epochs.

InstructGPT chooses among its epochs by the reward model's score on validation prompts, since the
validation loss turns long before people's judgement does (arXiv:2203.02155, C.1), and starts PPO
from a model of few epochs (C.3). The reward model is trained after SFT, so stage ppo chooses.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from rlhf_core.errors import ArtifactError
from rlhf_core.folders import pretty_json

EPOCHS = "epochs"
"""Folder of the SFT artifact with a policy for each kept epoch, by its number."""

SELECTION = "selection.json"
"""File of the SFT artifact: how its weights were selected, and which epochs it keeps."""

START = "start.json"
"""File of the PPO artifact: the epoch that it started from, and why; absent without a choice."""


class Start(NamedTuple):
    """The folder of the policy to start from, and what was chosen by which scores."""

    folder: Path
    epoch: int | None
    by: str
    scores: Mapping[int, float]


def write_selection(sft: Path, *, by: str, epochs: list[int]) -> None:
    """`sft` says how its weights were selected."""
    (sft / SELECTION).write_bytes(pretty_json({"by": by, "epochs": epochs}))


def starting_policy(sft: Path, epoch: int | None, score: Callable[[Path], float]) -> Start:
    """The epoch that is asked for, or the one of the highest score where SFT left the choice open.

    Of equal scores the earlier epoch is taken. Raises ArtifactError for an epoch that is not kept.
    """
    if epoch is not None:
        return Start(epoch_folder(sft, epoch), epoch, "ppo.sft_epoch", {})
    path = sft / SELECTION
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if not found or found["by"] != "reward_model_score":
        return Start(sft, None, "sft.selection", {})
    kept: list[int] = found["epochs"]
    scores = {number: score(epoch_folder(sft, number)) for number in kept}
    best = max(kept, key=lambda number: (scores[number], -number))
    return Start(epoch_folder(sft, best), best, "reward_model_score", scores)


def epoch_folder(sft: Path, epoch: int) -> Path:
    """The folder of a kept epoch's policy."""
    folder = sft / EPOCHS / str(epoch)
    if not folder.is_dir():
        kept = sorted(int(path.name) for path in (sft / EPOCHS).glob("*"))
        raise ArtifactError(
            f"{sft} keeps no epoch {epoch} of SFT (it keeps {kept or 'none'}): set "
            "sft.keep_epochs to true and run stage 'sft' again, or choose another ppo.sft_epoch."
        )
    return folder


def write_start(ppo: Path, start: Start) -> None:
    """`ppo` says which epoch it started from, where there was a choice."""
    if start.epoch is None:
        return
    scores = {str(epoch): round(score, 6) for epoch, score in start.scores.items()}
    record = {"epoch": start.epoch, "by": start.by, "scores": scores}
    (ppo / START).write_bytes(pretty_json(record))


def start_of(ppo: Path, sft: Path) -> Path:
    """The folder of the policy that the `ppo` artifact was started from."""
    path = ppo / START
    if not path.exists():
        return sft
    return epoch_folder(sft, json.loads(path.read_text(encoding="utf-8"))["epoch"])
