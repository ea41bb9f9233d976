"""The store: one folder that holds every artifact, and what was committed to it."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_core.artifacts import Artifact, open_artifact, publish_artifact
from rlhf_core.errors import ArtifactError
from rlhf_core.folders import sha256_of, write_durably
from rlhf_core.records import read_record, write_record
from rlhf_core.settings.base import Stage
from tasks.locks import hold

SHORTEST_DIGEST = 6
"""Fewest characters by which a digest or run id may be named."""

WORK = "work"
"""Folder of the store with what every job in progress keeps."""

CHECKPOINTS = "checkpoints"
"""Folder of a job's work in progress that holds the state from which it continues."""

FINGERPRINT = "fingerprint.json"
"""File of a job's work in progress that says what it is."""

INHERITED = "inherited"
"""Folder of a job's work in progress with the checkpoint of another job that it goes on from."""

JOURNAL = "journal"
"""Folder of a job's work in progress that holds what its run said to MLflow."""

PUBLISHING = "publishing"
"""Held from the rename of an artifact to its commit, and while garbage is collected."""

PUBLISH_SECONDS = 3600.0
"""How long a publish waits for another one, which hashes and syncs gigabytes at most."""


@dataclass(frozen=True)
class Store:
    """The folder that `--store` names."""

    folder: Path

    @property
    def objects(self) -> Path:
        """Published artifacts, each in a folder named by its digest."""
        return self.folder / "objects"

    @property
    def commits(self) -> Path:
        """One record per finished stage run: fingerprint, digest, inputs and run ids."""
        return self.folder / "commits"

    @property
    def stages(self) -> Path:
        """Prefect's records of stage results; Prefect writes and reads them."""
        return self.folder / "stages"

    @property
    def locks(self) -> Path:
        """One file per lock that is held."""
        return self.folder / "locks"

    @property
    def runs(self) -> Path:
        """One record per pipeline run: the state of each stage."""
        return self.folder / "runs"

    def object_folder(self, digest: str) -> Path:
        """Where the artifact with this digest is, or would be."""
        return self.objects / digest

    def work(self, key: str) -> Path:
        """What the job `key` keeps while it is in progress: payload, checkpoints, journal."""
        return self.folder / WORK / key

    def lock(self, key: str) -> Path:
        """The lock that whoever makes the result of the job `key` holds."""
        return self.locks / f"{key}.lock"

    def stage_payload(self, key: str) -> Path:
        """An empty folder to write the payload of the job `key` into; what lay there is gone."""
        payload = self.work(key) / "payload"
        if payload.exists():
            shutil.rmtree(payload)
        payload.mkdir(parents=True)
        return payload

    def publish(self, key: str, stage: Stage, provenance: Mapping[str, Any]) -> Artifact:
        """Publish the payload of the job `key` and commit it; its checkpoints are removed.

        A kill before the commit leaves an object that nothing names yet; after it, a finished job.
        """
        with hold(self.lock(PUBLISHING), wait_seconds=PUBLISH_SECONDS):
            artifact = publish_artifact(
                self.work(key) / "payload", self.objects, stage=stage, provenance=provenance
            )
            commit = {"digest": artifact.digest, **provenance}
            write_record(self.commits / f"{key}.json", commit)
        shutil.rmtree(self.work(key) / CHECKPOINTS, ignore_errors=True)
        return artifact

    def remove_work(self, key: str) -> None:
        """Nothing of the job `key` is left but a journal that MLflow does not have all of yet."""
        work = self.work(key)
        for part in work.iterdir() if work.is_dir() else ():
            if part.name == FINGERPRINT:
                part.unlink(missing_ok=True)
            elif part.name != JOURNAL:
                shutil.rmtree(part, ignore_errors=True)
        with contextlib.suppress(OSError):  # the journal is there, or nothing is
            work.rmdir()

    def read_commit(self, key: str) -> dict[str, Any] | None:
        """The commit of the job `key`, or None where it was never finished; checked to be one."""
        path = self.commits / f"{key}.json"
        try:
            commit = read_record(path)
            commit["digest"], commit["stage"], commit["runs"]["mlflow_run"], commit["fingerprint"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{path} is damaged ({type(error).__name__}: {error}), so the result that it names "
                "is not used. Run its recipe again, which writes it anew."
            ) from error
        return commit

    def commit_records(self) -> Iterator[dict[str, Any]]:
        """Every commit that can be read, newest first."""
        for path in _newest_first(self.commits):
            with contextlib.suppress(ArtifactError):
                commit = self.read_commit(path.stem)
                if commit is not None:
                    yield commit

    def write_run(self, run_id: str, record: Mapping[str, Any]) -> None:
        """Replace the record of one pipeline run."""
        write_record(self.runs / f"{run_id}.json", record)

    def knows_run(self, run_id: str) -> bool:
        """Whether there is a record of the pipeline run."""
        return (self.runs / f"{run_id}.json").exists()

    def write_recipe(self, run_id: str, recipe: str) -> None:
        """Keep the whole recipe of a pipeline run beside its record."""
        write_durably(self.recipe_path(run_id), recipe.encode())

    def check_recipe(self, record: Mapping[str, Any]) -> Path:
        """The recipe of a pipeline run, byte for byte as the run's record has it."""
        path = self.recipe_path(record["run_id"])
        if not path.is_file():
            raise ArtifactError(
                f"{path} is not there, so the recipe of run {record['run_id']} is not known. Run "
                "the recipe itself: what has not changed is reused."
            )
        found = sha256_of(path)
        if record.get("recipe_sha256", found) != found:
            raise ArtifactError(
                f"{path} is damaged: expected SHA-256 {record['recipe_sha256']}, found {found}. "
                "Run the recipe itself: what has not changed is reused."
            )
        return path

    def recipe_path(self, run_id: str) -> Path:
        """The recipe of a pipeline run, every value written out."""
        return self.runs / f"{run_id}.yaml"

    def read_run(self, run_id: str) -> dict[str, Any]:
        """The record of one pipeline run; ArtifactError where it is not there, or damaged."""
        path = self.runs / f"{run_id}.json"
        try:
            return _checked_run(path)
        except FileNotFoundError as error:
            raise ArtifactError(
                f"{path} is not there: what run {run_id} did is not known. Run its recipe again: "
                "what it had finished is reused."
            ) from error
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{path} is damaged ({error}): what run {run_id} did is not known. Remove it and "
                "run its recipe again: what it had finished is reused."
            ) from error

    def run_records(self) -> Iterator[dict[str, Any]]:
        """Every pipeline run whose record can be read, newest first."""
        for path in _newest_first(self.runs):
            with contextlib.suppress(ArtifactError):  # damaged, or removed just now
                yield self.read_run(path.stem)

    def damaged_runs(self) -> Iterator[str]:
        """What is wrong with each record of a run that cannot be read."""
        for path in _newest_first(self.runs):
            try:
                self.read_run(path.stem)
            except ArtifactError as error:
                yield str(error)

    def find_artifact(self, name: str) -> Artifact:
        """The artifact named by its digest or the start of it."""
        matches = []
        if self.objects.is_dir() and len(name) >= SHORTEST_DIGEST:
            matches = [path for path in self.objects.iterdir() if path.name.startswith(name)]
        if len(matches) != 1:
            found = "several artifacts" if matches else "no artifact"
            raise ArtifactError(
                f"The store {self.folder} holds {found} whose digest begins with {name!r}. Give at "
                f"least {SHORTEST_DIGEST} characters of a digest that `rlhf runs` shows, or "
                "another store with --store."
            )
        return open_artifact(matches[0])


def _checked_run(path: Path) -> dict[str, Any]:
    """The record of a run; ValueError where it is not one."""
    record = read_record(path)
    stages = record.get("stages")
    if not isinstance(stages, dict) or not all(isinstance(it, dict) for it in stages.values()):
        raise ValueError("it lists no stages")
    return record


def _newest_first(folder: Path) -> list[Path]:
    """Records of the folder; one that vanishes meanwhile counts as old."""
    paths = [path for path in folder.glob("*.json") if not path.name.startswith(".")]
    return sorted(paths, key=_written_at, reverse=True)


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
