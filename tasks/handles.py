"""What travels between tasks: small records of where a result lies, never the result."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_core.artifacts import Artifact, open_artifact
from rlhf_core.settings.base import Stage
from rlhf_core.settings.recipe import Recipe
from tasks.datasets import tables_read
from tasks.fingerprints import Fingerprint, stage_fingerprint


@dataclass(frozen=True)
class Handle:
    """A published artifact and the MLflow run that made it."""

    stage: Stage
    path: Path
    digest: str
    run_id: str
    result: Mapping[str, str] | None = field(default=None, compare=False, repr=False)
    """What Prefect has as the result of the stage's task: it knows by this very object which task
    follows which."""


@dataclass(frozen=True)
class PipelineRun:
    """One execution of a recipe, as its stages see it."""

    recipe_name: str
    run_id: str
    """The MLflow run that holds the stages' runs."""

    store: Path
    force: tuple[Stage, ...] = ()
    """Stages that are computed again whatever the store holds."""

    taken: Mapping[Stage, str] = field(default_factory=dict)
    """Stages whose artifact is taken over from an earlier run, by digest, whatever has changed."""

    continued: Mapping[Stage, dict[str, Any]] = field(default_factory=dict)
    """The stage that goes on from a checkpoint of other settings, and what its fingerprint says of
    that."""


@dataclass(frozen=True)
class StageJob:
    """All that decides a stage's result; its fingerprint is known before anything is loaded."""

    stage: Stage
    recipe: Recipe
    inputs: Mapping[str, Handle]
    """Role to artifact; the role is the name of the stage that made it."""

    fingerprint: Fingerprint

    @property
    def key(self) -> str:
        """Names the job's folder of work in progress and its commit record in the store."""
        return f"{self.stage}-{self.fingerprint.digest}"

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """The sections of the recipe that the stage reads, by name."""
        return self.fingerprint.settings

    def input_path(self, role: Stage) -> Path:
        """The folder of the artifact that has this role."""
        return self.inputs[role].path


def stage_job(recipe: Recipe, stage: Stage, **inputs: Handle) -> StageJob:
    """The job that `recipe` says for `stage`, on these inputs."""
    digests: dict[str, str] = {}
    for role, handle in inputs.items():
        if role == "data":
            digests |= table_digests(recipe, stage, open_artifact(handle.path, "data"))
        else:
            digests[role] = handle.digest
    return StageJob(stage, recipe, inputs, stage_fingerprint(recipe, stage, digests))


def table_digests(recipe: Recipe, stage: Stage, data: Artifact) -> dict[str, str]:
    """What decides of a data artifact: the tables that the stage reads, and no other."""
    files = {file.path: file.sha256 for file in data.files}
    return {
        f"data/{table}": files.get(f"{table}.parquet", "none")
        for table in tables_read(recipe, stage)
    }
