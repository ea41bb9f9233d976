"""What is written down about a stage run, so that its artifact can tell its own past."""

import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from tasks.clone import code_version, installed_version
from tasks.handles import PipelineRun, StageJob

ENCODING = "encoding.json"
"""Payload file of the SFT stage that says how text becomes ids; provenance repeats it."""

LIBRARIES = (
    "accelerate",
    "datasets",
    "mlflow",
    "numpy",
    "pandas",
    "pandera",
    "peft",
    "prefect",
    "pyarrow",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)


@dataclass(frozen=True)
class RunIds:
    """Where the stage run is to be found in MLflow and Prefect."""

    mlflow_run: str
    mlflow_pipeline_run: str
    prefect_flow_run: str | None
    prefect_task_run: str | None


def stage_provenance(
    job: StageJob,
    pipeline: PipelineRun,
    ids: RunIds,
    *,
    metrics: Mapping[str, float],
    started: datetime,
    seconds: float,
) -> dict[str, Any]:
    """The record that lies beside an artifact's payload; the clock may have been set meanwhile."""
    return {
        "stage": job.stage,
        "recipe": pipeline.recipe_name,
        "fingerprint": job.fingerprint.record(),
        "inputs": {
            role: {"stage": handle.stage, "digest": handle.digest, "run_id": handle.run_id}
            for role, handle in job.inputs.items()
        },
        "code": asdict(code_version()),
        "libraries": library_versions(),
        "machine": machine(job),
        "working_folder": str(Path.cwd()),
        "runs": asdict(ids),
        "metrics": finite(metrics),
        "started_at": started.isoformat(timespec="seconds"),
        "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
    }


def encoding_record(payload: Path) -> dict[str, Any] | None:
    """How the stage turns text into ids, with the template's hash; None where it says nothing."""
    path = payload / ENCODING
    if not path.exists():
        return None
    encoding: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return encoding


def environment_record() -> dict[str, Any]:
    """Code, libraries and interpreter of this process."""
    return {
        "code": asdict(code_version()),
        "libraries": library_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
    }


@cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that take part, those that are installed."""
    found = {name: installed_version(name) for name in LIBRARIES}
    return {name: installed for name, installed in found.items() if installed is not None}


def machine(job: StageJob) -> dict[str, str | int]:
    """What the stage computed on; the data stage uses no tensors, so torch stays unloaded."""
    if job.stage == "data":
        return {"device": "cpu", "processor": platform.machine(), "system": platform.system()}
    from rlhf_core.machine import describe_machine

    return describe_machine()


def finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Metrics as JSON can hold them: None in place of NaN and infinities."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
