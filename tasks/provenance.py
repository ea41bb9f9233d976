"""What is written down about a stage run, so that its artifact can tell its own past."""

import math
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import rlhf_core
from tasks.handles import PipelineRun, StageJob

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
class CodeVersion:
    """The version of this code; commit and state of the clone where it runs from one."""

    package: str
    git_commit: str | None
    git_dirty: bool | None
    """Whether the clone differs from the commit."""


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
) -> dict[str, Any]:
    """The record that lies beside an artifact's payload."""
    ended = datetime.now(UTC)
    return {
        "stage": job.stage,
        "recipe": pipeline.recipe_name,
        "fingerprint": asdict(job.fingerprint),
        "inputs": {
            role: {"stage": handle.stage, "digest": handle.digest, "run_id": handle.run_id}
            for role, handle in job.inputs.items()
        },
        "code": asdict(code_version()),
        "libraries": library_versions(),
        "machine": machine(job),
        "runs": asdict(ids),
        "metrics": finite(metrics),
        "started_at": started.isoformat(timespec="seconds"),
        "ended_at": ended.isoformat(timespec="seconds"),
        "seconds": round((ended - started).total_seconds(), 3),
    }


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
def code_version() -> CodeVersion:
    """The installed version, and the commit of the clone that the package lies in, if any."""
    folder = Path(rlhf_core.__file__).parent
    package = _version("rlhf") or "unknown"
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return CodeVersion(package, None, None)
    commit = _git(folder, "rev-parse", "HEAD")
    return CodeVersion(package, commit, bool(_git(folder, "status", "--porcelain")))


@cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that take part, those that are installed."""
    found = {name: _version(name) for name in LIBRARIES}
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


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None where there is no git or no clone."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
