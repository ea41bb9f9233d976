"""The store: one folder that holds every artifact, and what was committed to it."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_core.artifacts import Artifact, open_artifact, publish_artifact, write_durably
from rlhf_core.errors import ArtifactError
from rlhf_core.settings.base import Stage

SHORTEST_DIGEST = 6
"""Fewest characters by which a digest or run id may be named."""


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
    def runs(self) -> Path:
        """One record per pipeline run: the state of each stage."""
        return self.folder / "runs"

    def object_folder(self, digest: str) -> Path:
        """Where the artifact with this digest is, or would be."""
        return self.objects / digest

    def stage_payload(self, key: str) -> Path:
        """An empty folder to write the payload of the job `key` into; what lay there is gone."""
        payload = self._work(key) / "payload"
        if payload.exists():
            shutil.rmtree(payload)
        payload.mkdir(parents=True)
        return payload

    def publish(self, key: str, stage: Stage, provenance: Mapping[str, Any]) -> Artifact:
        """Publish the payload of the job `key` and commit it; its work folder is removed.

        A kill before the commit leaves an object that nothing names yet; after it, a finished job.
        """
        artifact = publish_artifact(
            self._work(key) / "payload", self.objects, stage=stage, provenance=provenance
        )
        commit = {"digest": artifact.digest, **provenance}
        write_durably(self.commits / f"{key}.json", _json_bytes(commit))
        shutil.rmtree(self._work(key))
        return artifact

    def commit_records(self) -> Iterator[dict[str, Any]]:
        """Every commit, newest first."""
        return _records(self.commits)

    def write_run(self, run_id: str, record: Mapping[str, Any]) -> None:
        """Replace the record of one pipeline run."""
        write_durably(self.runs / f"{run_id}.json", _json_bytes(record))

    def read_run(self, run_id: str) -> dict[str, Any]:
        """The record of one pipeline run."""
        record: dict[str, Any] = json.loads((self.runs / f"{run_id}.json").read_text("utf-8"))
        return record

    def run_records(self) -> Iterator[dict[str, Any]]:
        """Every pipeline run, newest first."""
        return _records(self.runs)

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

    def _work(self, key: str) -> Path:
        return self.folder / "work" / key


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    if not folder.is_dir():
        return
    paths = (path for path in folder.glob("*.json") if not path.name.startswith("."))
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        yield json.loads(path.read_text(encoding="utf-8"))


def _json_bytes(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
