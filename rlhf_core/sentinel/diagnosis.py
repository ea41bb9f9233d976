"""The verdict on a training that was stopped, as `diagnosis.json` holds it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from rlhf_core.errors import TrainingStopped
from rlhf_core.sentinel.causes import CAUSES

DIAGNOSIS = "diagnosis.json"
LAST_GOOD = "last_good"
"""Folder that keeps the last good policy of a stopped run, beside the diagnosis."""

TITLES = {"sft": "SFT", "reward_model": "Reward modelling", "ppo": "PPO", "dpo": "DPO"}


def sentence(stage: str, when: str, symptom: str, cause: str) -> str:
    """One sentence: what was seen and when, the likely cause, and the mend."""
    found = CAUSES[cause]
    return f"{TITLES.get(stage, stage)} {when}: {symptom}; likely, {found.says}; {found.mend}."


def stop(
    stage: str,
    when: str,
    symptom: str,
    cause: str,
    *,
    alarm: str,
    step: int,
    signals: Mapping[str, float] | None = None,
    first_bad: str | None = None,
    batches: Sequence[Mapping[str, Any]] = (),
    last_steps: Sequence[Mapping[str, Any]] = (),
    last_good_step: int | None = None,
) -> NoReturn:
    """Raise TrainingStopped with the verdict and all that it rests on."""
    verdict = sentence(stage, when, symptom, cause)
    raise TrainingStopped(
        verdict,
        {
            "verdict": verdict,
            "stage": stage,
            "step": step,
            "alarm": alarm,
            "symptom": symptom,
            "cause": cause,
            "explanation": CAUSES[cause].says,
            "mend": CAUSES[cause].mend,
            "first_bad_tensor": first_bad,
            "bad_batches": list(batches),
            "last_good_step": last_good_step,
            "signals": plain(signals or {}),
            "last_steps": [plain(of) for of in last_steps],
        },
    )


def refuse(symptom: str, cause: str) -> NoReturn:
    """Raise TrainingStopped before PPO's first update."""
    stop("ppo", "did not start", symptom, cause, alarm="start", step=0)


def plain(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers as JSON can hold them: one that is not finite by its name."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in numbers.items()
    }
