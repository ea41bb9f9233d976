"""Checkpoints: the state inside a running stage from which it continues exactly.

Each is a folder `step-<step>-<SHA-256 of its manifest>` that is there whole or not at all. The
manifest holds size and SHA-256 of every file, and its own hash stands in the folder's name, so that
no changed byte goes unseen. Tensors are safetensors and all else is JSON: nothing read here can
run code.
"""

import hashlib
import json
import re
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_core.errors import ArtifactError, StorageError
from rlhf_core.folders import (
    MANIFEST,
    Difference,
    PayloadFile,
    canonical_json,
    changed_bytes,
    check_room,
    differences,
    files_below,
    listed,
    publish_folder,
    read_listed,
    remove_folder,
    system_faults_told,
)
from rlhf_core.stopping import PROCESS, StopRequest

FORMAT = 1
"""Version of a checkpoint's layout; a reader refuses any other."""

KEPT = 2
"""Checkpoints that stay: the newest, and the one before in case the newest is damaged later."""

_NAME = re.compile(r"step-(\d{10})-([0-9a-f]{64})")
_GARBAGE = (".stage-", ".remove-")


@dataclass(frozen=True)
class Checkpoint:
    """A published folder every byte of which is as it was written."""

    folder: Path
    step: int
    environment: Mapping[str, str]
    files: tuple[PayloadFile, ...]

    def read(self, name: str) -> bytes:
        """The bytes of one of its files: those that were written, whatever happened since."""
        content = (self.folder / name).read_bytes()
        expected = next(file.sha256 for file in self.files if file.path == name)
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise ArtifactError(
                f"{self.folder / name} was changed while it was read: expected SHA-256 {expected}, "
                f"found {found}. Run the same command again, and leave the folder alone."
            )
        return content


class Inherited(NamedTuple):
    """A checkpoint of another identity that a stage may begin from: somebody said so."""

    folder: Path
    identity: Mapping[str, str]


@dataclass
class Checkpoints:
    """Where a stage saves its state, when, and what has to be equal for it to be continued."""

    folder: Path
    identity: Mapping[str, str]
    """What decides the result: a checkpoint of another identity is refused."""
    every_seconds: float | None = 60.0
    every_steps: int | None = None
    notice: Callable[[str], None] = lambda _: None
    """Told in one line of each rejected checkpoint, and from which step training continues."""
    stop: StopRequest = PROCESS
    inherited: Inherited | None = None
    """What is continued while there is no checkpoint of the stage's own."""
    before_save: Callable[[], None] = lambda: None
    """Called before each save: what was reported until then outlives whatever follows."""

    _saved_at: float = field(default_factory=time.monotonic)
    _kept: list[Path] = field(default_factory=list)

    def of_part(self, name: str) -> "Checkpoints":
        """The same for one of several trainings of the stage, in a folder of its own below."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return replace(self, folder=folder, _saved_at=time.monotonic(), _kept=[])

    def is_due(self, step: int) -> bool:
        """Whether the state after `step` is to be saved."""
        by_steps = self.every_steps is not None and step % self.every_steps == 0
        waited = time.monotonic() - self._saved_at
        return by_steps or (self.every_seconds is not None and waited >= self.every_seconds)

    def prepare(self, needed: int) -> None:
        """The folder takes files and has room for twice `needed` bytes; staged ones are gone."""
        check_room(self.folder, 2 * needed)
        for path in self.folder.iterdir():
            if path.name.startswith(_GARBAGE):
                remove_folder(path)
        self._saved_at = time.monotonic()

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; the inherited one, or None, where none was saved.

        Each newer one that is not is noticed in one line. Raises ArtifactError where there are
        checkpoints and none is whole, or where the newest whole one is of another identity.
        """
        found = list(self.folder.glob("step-*")) if self.folder.is_dir() else []
        rejected = []
        for path in sorted(found, reverse=True):
            checked = self._checked(path, self.identity)
            if isinstance(checked, Checkpoint):
                self._kept = [path]
                return checked
            rejected.append(f"{path} cannot be used: {checked}")
            self.notice(f"checkpoint {rejected[-1]}")
        if rejected:
            raise ArtifactError(
                "None of the stage's checkpoints can be used, and it does not start over unasked:\n"
                + "\n".join(f"  {line}" for line in rejected)
                + f"\nBring one back from a copy, or remove {self.folder} to start over."
            )
        return None if self.inherited is None else self._inherited(self.inherited)

    def _inherited(self, inherited: Inherited) -> Checkpoint:
        path, identity = inherited
        checked = self._checked(path, identity)
        if isinstance(checked, Checkpoint):
            return checked
        raise ArtifactError(
            f"{path}, from which the stage was to go on, cannot be used: {checked}. Bring it back "
            "from a copy, or run the recipe with the settings that are wanted, which starts over."
        )

    def save(
        self, step: int, write: Callable[[Path], None], environment: Mapping[str, str]
    ) -> Checkpoint:
        """Publish what `write` puts into the folder that it is given: the state after `step`.

        Of the others only the one before it stays, and they go only once it was read back whole.
        """
        self.before_save()
        staged = self.folder / f".stage-{step}-{secrets.token_hex(4)}"
        try:
            staged.mkdir()
            with system_faults_told():
                write(staged)
            published = self._publish(staged, step, environment)
        except OSError as error:
            shutil.rmtree(staged, ignore_errors=True)
            if not self.folder.is_dir():
                raise StorageError(
                    f"{self.folder} was removed while training saved its state there, and what was "
                    "saved before with it. Run the same command again, which starts the stage over."
                ) from error
            raise StorageError(
                f"The checkpoint of step {step} cannot be saved in {self.folder}: "
                f"{error.strerror}. The one before it is kept; free space and run the same "
                "command again to continue from there."
            ) from error
        checkpoint = self._checked(published, self.identity)
        if isinstance(checkpoint, Difference):
            raise StorageError(
                f"{published} is not as it was written: {checkpoint}. The one before it is kept; "
                "look after the disk before you run the same command again."
            )
        self._saved_at = time.monotonic()
        self._kept = [*self._kept, checkpoint.folder][-KEPT:]
        for path in self.folder.glob("step-*"):
            if path not in self._kept:
                remove_folder(path)
        return checkpoint

    def _publish(self, staged: Path, step: int, environment: Mapping[str, str]) -> Path:
        manifest = canonical_json(
            {
                "format": FORMAT,
                "step": step,
                "identity": dict(self.identity),
                "environment": dict(environment),
                "files": listed(files_below(staged)),
            }
        )
        (staged / MANIFEST).write_bytes(manifest)
        published = self.folder / f"step-{step:010}-{hashlib.sha256(manifest).hexdigest()}"
        if published.exists() or published.is_symlink():  # rejected before: it is not whole
            remove_folder(published)
        publish_folder(staged, published)
        return published

    def _checked(self, path: Path, identity: Mapping[str, str]) -> Checkpoint | Difference:
        """The checkpoint, or the first thing that is wrong with it."""
        name = _NAME.fullmatch(path.name)
        if name is None:
            return Difference(path.name, "the name step-<step>-<SHA-256>", "another name")
        if path.is_symlink() or not path.is_dir():
            return Difference(path.name, "a folder", "a link" if path.is_symlink() else "a file")
        manifest = _manifest(path, name[2])
        if isinstance(manifest, Difference):
            return manifest
        self._refuse_other_identity(path, identity, manifest["identity"])
        files = read_listed(manifest["files"])
        wrong = next(differences(path, files), None) or next(changed_bytes(path, files), None)
        return wrong or Checkpoint(path, manifest["step"], manifest["environment"], files)

    def _refuse_other_identity(
        self, path: Path, expected: Mapping[str, str], found: Mapping[str, str]
    ) -> None:
        keys = sorted(expected.keys() | found.keys())
        others = [key for key in keys if expected.get(key) != found.get(key)]
        if others:
            lines = "; ".join(
                f"{key}: expected {expected.get(key)}, found {found.get(key)}" for key in others
            )
            raise ArtifactError(
                f"{path} was saved by a run with another {', '.join(others)} ({lines}). Run with "
                f"what it was saved by, or remove {self.folder} to start over."
            )


def _manifest(folder: Path, expected: str) -> dict[str, Any] | Difference:
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        kind = "a link" if path.is_symlink() else "nothing"
        return Difference(MANIFEST, f"SHA-256 {expected}", kind)
    text = path.read_bytes()
    found = hashlib.sha256(text).hexdigest()
    if found != expected:
        return Difference(MANIFEST, f"SHA-256 {expected}", f"SHA-256 {found}")
    try:
        manifest: dict[str, Any] = json.loads(text)
        if manifest["format"] != FORMAT:
            return Difference(MANIFEST, f"format {FORMAT}", f"format {manifest['format']}")
        read_listed(manifest["files"])
        int(manifest["step"]), dict(manifest["identity"]), dict(manifest["environment"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        return Difference(MANIFEST, "a manifest", f"none ({type(error).__name__}: {error})")
    return manifest
