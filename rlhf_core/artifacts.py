"""What a stage makes: a folder published whole or not at all, with a manifest and its past.

The manifest lists every payload file with size and SHA-256; its own SHA-256 is the artifact's
digest, so `sha256sum manifest.json` shows it. The provenance lies beside it, outside the digest:
equal results of different runs stay equal.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_core.errors import ArtifactError
from rlhf_core.folders import (
    MANIFEST,
    Difference,
    PayloadFile,
    canonical_json,
    changed_bytes,
    differences,
    digest,
    files_below,
    listed,
    publish_folder,
    read_listed,
    remove_folder,
    sha256_of,
    sync_folder,
    write_durably,
)
from rlhf_core.records import read_record, sealed_json
from rlhf_core.settings.base import STAGES, Stage

__all__ = [
    "FORMAT",
    "MANIFEST",
    "PROVENANCE",
    "Artifact",
    "PayloadFile",
    "canonical_json",
    "digest",
    "open_artifact",
    "publish_artifact",
    "read_provenance",
    "sha256_of",
    "sync_folder",
    "verify_artifact",
    "write_durably",
]

PROVENANCE = "provenance.json"
FORMAT = 1
"""Version of the manifest; a reader refuses any other."""

REMADE = (
    "Run its recipe again: what is damaged in the store is made anew and takes its place. A copy "
    "elsewhere has to be copied again."
)
"""How damage to an artifact is mended."""


@dataclass(frozen=True)
class Artifact:
    """A published folder and what its manifest says."""

    stage: Stage
    path: Path
    digest: str
    files: tuple[PayloadFile, ...]

    def provenance(self) -> dict[str, Any]:
        """The record of how the artifact was made."""
        return read_provenance(self.path)


def publish_artifact(
    staged: Path, objects: Path, *, stage: Stage, provenance: Mapping[str, Any]
) -> Artifact:
    """Move the finished folder `staged` to `objects/<digest>`; after a kill it is there or not.

    Every file and folder is on the disk before the rename that publishes it. An equal artifact
    that is there already wins, with its own provenance, and `staged` is removed; one that was
    damaged since gives way. Both folders must lie on one file system.
    """
    manifest = canonical_json(_manifest(staged, stage))
    manifest_digest = hashlib.sha256(manifest).hexdigest()
    published = objects / manifest_digest
    if published.exists() or published.is_symlink():
        try:
            equal = verify_artifact(published, stage)
            read_provenance(published)
        except ArtifactError:
            remove_folder(published)
        else:
            shutil.rmtree(staged)
            return equal
    (staged / MANIFEST).write_bytes(manifest)
    (staged / PROVENANCE).write_bytes(sealed_json(provenance))
    if not publish_folder(staged, published):
        shutil.rmtree(staged)  # an equal run was faster
    return open_artifact(published, stage)


def open_artifact(folder: Path, expected: Stage | None = None) -> Artifact:
    """Read an artifact's manifest; refuse one that is unfinished, changed or of another stage.

    Every listed file is there with its size, and no other file; `verify_artifact` hashes them too.
    """
    manifest_path = folder / MANIFEST
    if not manifest_path.is_file():
        raise ArtifactError(
            f"{folder} holds no {MANIFEST}: it is not an artifact, or its writing was cut short. "
            f"Run its recipe again, or pass the folder that {_needed(expected)} reported."
        )
    text = manifest_path.read_bytes()
    artifact = _parse_manifest(folder, text)
    if expected is not None and artifact.stage != expected:
        raise ArtifactError(
            f"{folder} was made by stage '{artifact.stage}', but an artifact of '{expected}' is "
            f"needed here. Pass the folder that stage '{expected}' reported."
        )
    _refuse_first(artifact, differences(folder, artifact.files, besides=(MANIFEST, PROVENANCE)))
    return artifact


def verify_artifact(folder: Path, expected: Stage | None = None) -> Artifact:
    """Open an artifact and hash every payload file again; refuse one with a changed byte."""
    artifact = open_artifact(folder, expected)
    _refuse_first(artifact, changed_bytes(folder, artifact.files))
    return artifact


def read_provenance(folder: Path) -> dict[str, Any]:
    """The record beside an artifact's payload, or an error that says it is not there."""
    path = folder / PROVENANCE
    try:
        return read_record(path)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{folder} holds no {PROVENANCE}, so its past is not known. Copy artifacts as whole "
            "folders."
        ) from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged ({error}). {REMADE}") from error


def _manifest(folder: Path, stage: Stage) -> dict[str, Any]:
    return {"format": FORMAT, "stage": stage, "files": listed(_payload(folder))}


def _payload(folder: Path) -> dict[str, Path]:
    """Every file below `folder` by relative name; links are refused, they may point anywhere."""
    found = files_below(folder)
    for path in found.values():
        if path.is_symlink():
            raise ArtifactError(f"{path} is a link; an artifact holds plain files only. Remove it.")
    return {name: path for name, path in found.items() if name not in (MANIFEST, PROVENANCE)}


def _parse_manifest(folder: Path, text: bytes) -> Artifact:
    path = folder / MANIFEST
    try:
        manifest = json.loads(text)
        if manifest["format"] != FORMAT:
            raise ArtifactError(
                f"{path} has format {manifest['format']}, this version reads format {FORMAT}. Use "
                "the version that wrote it, or run its recipe again, which makes it anew."
            )
        files = read_listed(manifest["files"])
        stage = manifest["stage"]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is damaged ({type(error).__name__}: {error}). {REMADE}"
        ) from error
    if stage not in STAGES:
        raise ArtifactError(f"{path} names the stage {stage!r}, which is none of {STAGES}.")
    return Artifact(stage, folder, hashlib.sha256(text).hexdigest(), files)


def _refuse_first(artifact: Artifact, found: Iterator[Difference]) -> None:
    """Raise ArtifactError for the first difference, if there is one."""
    for difference in found:
        raise ArtifactError(
            f"{artifact.path / difference.file} is damaged: expected {difference.expected}, found "
            f"{difference.found}. It is of stage '{artifact.stage}'. {REMADE}"
        )


def _needed(expected: Stage | None) -> str:
    return "a stage" if expected is None else f"stage '{expected}'"
