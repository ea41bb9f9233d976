"""What a stage makes: a folder published whole or not at all, with a manifest and its past.

The manifest lists every payload file with size and SHA-256; its own SHA-256 is the artifact's
digest, so `sha256sum manifest.json` shows it. The provenance lies beside it, outside the digest:
equal results of different runs stay equal.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_core.errors import ArtifactError, StorageError
from rlhf_core.settings.base import STAGES, Stage

MANIFEST = "manifest.json"
PROVENANCE = "provenance.json"
FORMAT = 1
"""Version of the manifest; a reader refuses any other."""

_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class PayloadFile:
    """One file of an artifact's payload, its path relative to the folder with forward slashes."""

    path: str
    size: int
    sha256: str


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


def canonical_json(value: object) -> bytes:
    """The one byte string that stands for `value`: sorted keys, no spaces, no NaN."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def digest(value: object) -> str:
    """SHA-256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    hashed = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_READ_BYTES):
            hashed.update(chunk)
    return hashed.hexdigest()


def publish_artifact(
    staged: Path, objects: Path, *, stage: Stage, provenance: Mapping[str, Any]
) -> Artifact:
    """Move the finished folder `staged` to `objects/<digest>`; after a kill it is there or not.

    Every file and folder is on the disk before the rename that publishes it. An equal artifact
    that is there already wins, with its own provenance, and `staged` is removed. Both folders must
    lie on one file system.
    """
    manifest = canonical_json(_manifest(staged, stage))
    manifest_digest = hashlib.sha256(manifest).hexdigest()
    published = objects / manifest_digest
    if (published / MANIFEST).exists():
        shutil.rmtree(staged)
        return verify_artifact(published, stage)
    (staged / MANIFEST).write_bytes(manifest)
    (staged / PROVENANCE).write_text(_pretty_json(provenance), encoding="utf-8")
    _make_durable(staged)
    objects.mkdir(parents=True, exist_ok=True)
    try:
        staged.rename(published)
    except OSError as error:
        if not (published / MANIFEST).exists():
            raise StorageError(
                f"{staged} cannot be moved to {published}: {error.strerror}. The store must be "
                "one writable file system."
            ) from error
        shutil.rmtree(staged)  # an equal run was faster
    sync_folder(objects)
    return open_artifact(published, stage)


def open_artifact(folder: Path, expected: Stage | None = None) -> Artifact:
    """Read an artifact's manifest; refuse one that is unfinished, changed or of another stage.

    Every listed file is there with its size, and no other file; `verify_artifact` hashes them too.
    """
    manifest_path = folder / MANIFEST
    if not manifest_path.exists():
        raise ArtifactError(
            f"{folder} holds no {MANIFEST}: it is not an artifact, or its writing was cut short. "
            f"Run the recipe again, or pass the folder that {_needed(expected)} reported."
        )
    text = manifest_path.read_bytes()
    artifact = _parse_manifest(folder, text)
    if expected is not None and artifact.stage != expected:
        raise ArtifactError(
            f"{folder} was made by stage '{artifact.stage}', but an artifact of '{expected}' is "
            f"needed here. Pass the folder that stage '{expected}' reported."
        )
    _check_presence(artifact)
    return artifact


def verify_artifact(folder: Path, expected: Stage | None = None) -> Artifact:
    """Open an artifact and hash every payload file again; refuse one with a changed byte."""
    artifact = open_artifact(folder, expected)
    for file in artifact.files:
        found = sha256_of(folder / file.path)
        if found != file.sha256:
            raise ArtifactError(
                f"{folder / file.path} is damaged: its SHA-256 is {found}, the manifest says "
                f"{file.sha256}. Remove {folder} and run stage '{artifact.stage}' again."
            )
    return artifact


def read_provenance(folder: Path) -> dict[str, Any]:
    """The record beside an artifact's payload, or an error that says it is not there."""
    path = folder / PROVENANCE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{folder} holds no {PROVENANCE}, so its past is not known. Copy artifacts as whole "
            "folders."
        ) from error
    except ValueError as error:
        raise ArtifactError(f"{path} is not readable as JSON ({error}): it is damaged.") from error
    if not isinstance(record, dict):
        raise ArtifactError(f"{path} is damaged: it holds no JSON object.")
    return record


def sync_folder(folder: Path) -> None:
    """The folder's entries are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """The file holds `content` whole or keeps what it held; true after a power cut too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    with staged.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    staged.replace(path)
    sync_folder(path.parent)


def _manifest(folder: Path, stage: Stage) -> dict[str, Any]:
    files = [
        {"path": name, "size": path.stat().st_size, "sha256": sha256_of(path)}
        for name, path in sorted(_payload(folder).items())
    ]
    return {"format": FORMAT, "stage": stage, "files": files}


def _payload(folder: Path) -> dict[str, Path]:
    """Every file below `folder` by relative name; links are refused, they may point anywhere."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise ArtifactError(f"{path} is a link; an artifact holds plain files only. Remove it.")
        if path.is_file() and name not in (MANIFEST, PROVENANCE):
            found[name] = path
    return found


def _parse_manifest(folder: Path, text: bytes) -> Artifact:
    path = folder / MANIFEST
    try:
        manifest = json.loads(text)
        if manifest["format"] != FORMAT:
            raise ArtifactError(
                f"{path} has format {manifest['format']}, this version reads format {FORMAT}. Use "
                "the version that wrote it, or run its stage again."
            )
        files = tuple(
            PayloadFile(str(file["path"]), int(file["size"]), str(file["sha256"]))
            for file in manifest["files"]
        )
        stage = manifest["stage"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path} is damaged ({type(error).__name__}: {error}). Remove {folder} and run its "
            "stage again."
        ) from error
    if stage not in STAGES:
        raise ArtifactError(f"{path} names the stage {stage!r}, which is none of {STAGES}.")
    return Artifact(stage, folder, hashlib.sha256(text).hexdigest(), files)


def _check_presence(artifact: Artifact) -> None:
    found = _payload(artifact.path)
    for file in artifact.files:
        path = found.pop(file.path, None)
        if path is None:
            raise ArtifactError(
                f"{artifact.path} lacks {file.path}, which its manifest lists. Remove the folder "
                f"and run stage '{artifact.stage}' again."
            )
        size = path.stat().st_size
        if size != file.size:
            raise ArtifactError(
                f"{path} is damaged: it has {size} bytes, the manifest says {file.size}. Remove "
                f"{artifact.path} and run stage '{artifact.stage}' again."
            )
    if found:
        raise ArtifactError(
            f"{artifact.path} holds {', '.join(sorted(found)[:5])}, which its manifest does not "
            "list: a published folder is never written again. Move the rest elsewhere."
        )


def _make_durable(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):  # children before their folder
        if path.is_dir():
            sync_folder(path)
            continue
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        path.chmod(0o444)
    sync_folder(folder)


def _pretty_json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _needed(expected: Stage | None) -> str:
    return "a stage" if expected is None else f"stage '{expected}'"
