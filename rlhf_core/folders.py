"""Files and folders that are there whole or not at all, and what a manifest says of their files.

Artifacts and checkpoints are both written as `publish_folder` does and checked with `differences`.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from rlhf_core.errors import StorageError

MANIFEST = "manifest.json"
"""Name of the file that lists the others of its folder."""

_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class PayloadFile:
    """One listed file, its path relative to the folder with forward slashes."""

    path: str
    size: int
    sha256: str


class Difference(NamedTuple):
    """A file that is not as its manifest says."""

    file: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.file}: expected {self.expected}, found {self.found}"


def canonical_json(value: object) -> bytes:
    """The one byte string that stands for `value`: sorted keys, no spaces, no NaN."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def pretty_json(value: object) -> bytes:
    """JSON for people to read, in a file of its own."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


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


def files_below(folder: Path) -> dict[str, Path]:
    """Every file and link below `folder` by relative name, in the order of the names."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix(): path for path in sorted(found)}


def listed(paths: dict[str, Path]) -> list[dict[str, Any]]:
    """What a manifest says of each file: its name, size and SHA-256."""
    return [
        asdict(PayloadFile(name, path.stat().st_size, sha256_of(path)))
        for name, path in sorted(paths.items())
    ]


def read_listed(entries: Sequence[Any]) -> tuple[PayloadFile, ...]:
    """The files that a manifest lists; each name once, and none that leads out of its folder.

    KeyError, TypeError, ValueError or OverflowError where the list is damaged.
    """
    files = tuple(
        PayloadFile(str(entry["path"]), int(entry["size"]), str(entry["sha256"]))
        for entry in entries
    )
    for file in files:
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts or path.as_posix() != file.path:
            raise ValueError(f"{file.path!r} is no name of a file in the folder")
    if len({file.path for file in files}) < len(files):
        raise ValueError("a file is listed twice")
    return files


def differences(
    folder: Path, files: Sequence[PayloadFile], *, besides: Collection[str] = (MANIFEST,)
) -> Iterator[Difference]:
    """What tells the folder from the list but for its bytes: links, missing, extra, other size."""
    found = files_below(folder)
    for name, path in found.items():
        if path.is_symlink() or not path.is_file():
            kind = "a link" if path.is_symlink() else "something else"
            yield Difference(name, "a plain file", kind)
    for file in files:
        path = folder / file.path
        if file.path not in found:
            yield Difference(file.path, f"{file.size} bytes", "nothing")
        elif path.is_file() and path.stat().st_size != file.size:
            yield Difference(file.path, f"{file.size} bytes", f"{path.stat().st_size} bytes")
    names = {file.path for file in files}
    for name in found:
        if name not in names and name not in besides:
            yield Difference(name, "no file of this name", "one that the manifest does not list")


def changed_bytes(folder: Path, files: Sequence[PayloadFile]) -> Iterator[Difference]:
    """The listed files whose bytes are others than those that were written."""
    for file in files:
        found = sha256_of(folder / file.path)
        if found != file.sha256:
            yield Difference(file.path, f"SHA-256 {file.sha256}", f"SHA-256 {found}")


def sync_folder(folder: Path) -> None:
    """The folder's entries are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """The folder is there, after a power cut too, and so are those that it lies in."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def write_durably(path: Path, content: bytes) -> None:
    """The file holds `content` whole or keeps what it held; true after a power cut too."""
    make_folder(path.parent)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    with staged.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    staged.replace(path)
    sync_folder(path.parent)


def publish_folder(staged: Path, target: Path) -> bool:
    """Move the finished folder to `target`; after a kill or a power cut it is there or not.

    Every file and folder in it is on the disk before the rename, and cannot be written after it.
    Gives False where `target` holds a manifest already, and leaves `staged` as it is.
    """
    _make_durable(staged)
    make_folder(target.parent)
    try:
        staged.rename(target)
    except OSError as error:
        if (target / MANIFEST).exists():
            return False
        hint = (
            "They lie on different file systems, and only within one is a folder moved at once. "
            if error.errno == errno.EXDEV
            else ""
        )
        raise StorageError(
            f"{staged} cannot be moved to {target}: {error.strerror}. {hint}The store must be one "
            "writable file system."
        ) from error
    sync_folder(target.parent)
    return True


def _make_durable(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):  # children before their folder
        if path.is_dir():
            sync_folder(path)
            continue
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        path.chmod(0o444)
    sync_folder(folder)


def remove_folder(path: Path) -> None:
    """The folder, or what took its place, is gone; what a kill leaves begins with `.remove-`."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    leaving = path
    if not path.name.startswith(".remove-"):
        leaving = path.rename(path.with_name(f".remove-{path.name}-{secrets.token_hex(4)}"))
    shutil.rmtree(leaving)


def check_room(folder: Path, needed: int) -> None:
    """`folder` is there, takes files and has `needed` bytes free; StorageError where not."""
    probe = folder / f".stage-probe-{os.getpid()}"
    try:
        make_folder(folder)
        probe.write_bytes(bytes(4096))
        probe.unlink()
    except OSError as error:
        probe.unlink(missing_ok=True) if folder.is_dir() else None
        raise StorageError(
            f"{folder} cannot be written: {error.strerror}. Free space, or choose another folder "
            "with --store."
        ) from error
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(
            f"{folder} has {free:,} bytes free, but {needed:,} are needed: free space, or choose "
            "another folder with --store."
        )


@contextmanager
def system_faults_told() -> Iterator[None]:
    """An OSError is raised where a library of Rust says in words alone what the system refused.

    Those of safetensors and tokenizers raise errors of their own, such as "I/O error: No space
    left on device (os error 28)".
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        said = re.search(r"\(os error (\d+)\)", str(error))
        if said is None:
            raise
        number = int(said[1])
        raise OSError(number, os.strerror(number)) from error
