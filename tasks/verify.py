"""Every byte of a lineage hashed again: the artifacts, their records, and the raw files."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rlhf_core.artifacts import PROVENANCE, REMADE, digest, sha256_of
from rlhf_core.errors import ArtifactError, RlhfError, StorageError
from tasks.fingerprints import SCHEMA, content_digest
from tasks.lineage import Lineage, Node
from tasks.pages import SHOWN_DIGEST
from tasks.raw_files import raw_file_path, recorded_path

State = Literal["sound", "damaged", "missing"]


@dataclass(frozen=True)
class Fault:
    """One file that is not what was recorded."""

    file: str
    expected: str | None
    """None where `found` is a whole sentence that says both."""

    found: str

    def __str__(self) -> str:
        if self.expected is None:
            return self.found
        return f"{self.file}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True)
class CheckedArtifact:
    """What became of one artifact of a lineage."""

    digest: str
    stage: str
    path: Path | None
    state: State
    faults: tuple[Fault, ...] = ()
    files: int = 0
    """Payload files that were hashed."""

    bytes: int = 0


@dataclass(frozen=True)
class RawFile:
    """A raw file, a folder of a base model, or a hub data set, outside the artifacts."""

    name: str
    state: Literal["sound", "changed", "missing", "elsewhere"]
    """`missing`: no longer where it was read. `elsewhere`: on the hub, not hashed here."""

    path: Path | None = None
    fault: Fault | None = None


@dataclass(frozen=True)
class Verification:
    """What hashing a whole lineage again came to."""

    target: str
    artifacts: tuple[CheckedArtifact, ...]
    raw_files: tuple[RawFile, ...] = field(default=())

    @property
    def fault(self) -> RlhfError | None:
        """The error that the command ends with; None where all that is here is sound.

        Damage in an artifact is a matter of storage. An artifact that is not here, or a raw file
        that was changed since, leaves the chain unproved.
        """
        damaged = [made for made in self.artifacts if made.state == "damaged"]
        if damaged:
            faults = "\n  ".join(str(fault) for made in damaged for fault in made.faults)
            names = ", ".join(f"{made.stage} in {made.path}" for made in damaged)
            return StorageError(f"damaged: {names}\n  {faults}\n{REMADE}")
        missing = [made for made in self.artifacts if made.state == "missing"]
        if missing:
            names = ", ".join(f"{made.stage} {made.digest}" for made in missing)
            return ArtifactError(
                f"not here: {names}. What is here is sound, but the chain to the raw data cannot "
                "be proved. Name the store that has them with --store, or copy them beside."
            )
        changed = [str(raw.fault) for raw in self.raw_files if raw.fault is not None]
        if changed:
            return ArtifactError(
                "the artifacts are sound, but raw files are no longer what they were made from:\n  "
                + "\n  ".join(changed)
            )
        return None

    def to_json(self) -> dict[str, Any]:
        """The verification as one JSON document."""
        fault = self.fault
        return {
            "target": self.target,
            "sound": fault is None,
            "message": None if fault is None else str(fault),
            "artifacts": [_plain(made) for made in self.artifacts],
            "raw_files": [_plain(raw) for raw in self.raw_files],
        }


def verify_lineage(lineage: Lineage) -> Verification:
    """Hash every file of every artifact of the lineage, and the raw files that are still there."""
    artifacts = tuple(_check_artifact(lineage, node) for node in lineage.in_order)
    raw = [found for node in lineage.in_order for found in _check_raw_files(node)]
    return Verification(lineage.target, artifacts, tuple(dict.fromkeys(raw)))


def _check_artifact(lineage: Lineage, node: Node) -> CheckedArtifact:
    if node.path is None:
        return CheckedArtifact(node.digest, node.stage, None, "missing")
    faults = [] if node.fault is None else [Fault(str(node.path), None, node.fault)]
    size = 0
    for file in node.files:
        found = sha256_of(node.path / file.path)
        size += file.size
        if found != file.sha256:
            path = str(node.path / file.path)
            faults.append(Fault(path, f"SHA-256 {file.sha256}", f"SHA-256 {found}"))
    faults += _check_provenance(lineage, node)
    state: State = "damaged" if faults else "sound"
    return CheckedArtifact(
        node.digest, node.stage, node.path, state, tuple(faults), len(node.files), size
    )


def _check_provenance(lineage: Lineage, node: Node) -> Iterator[Fault]:
    """The provenance lies outside the digest, but its fingerprint is the hash of its own parts."""
    fingerprint = dict(node.provenance.get("fingerprint", {}))
    expected = fingerprint.pop("digest", None)
    if expected is None:
        return
    path = str(Path(node.path or "") / PROVENANCE)
    found = [
        digest({"schema": schema, "stage": node.stage, **fingerprint})
        for schema in range(SCHEMA, 0, -1)
    ]
    if expected not in found:
        yield Fault(path, f"fingerprint {expected}", f"parts that give {found[0]}")
    recorded = fingerprint.get("inputs", {})
    for role, made in node.inputs.items():
        if role in recorded and recorded[role] != made:
            yield Fault(path, f"input {role} {recorded[role]}", made)
        hashes = {file.path: file.sha256 for file in lineage.nodes[made].files}
        for name, expected in recorded.items():
            table = name.removeprefix(f"{role}/")
            if table != name and hashes and hashes.get(f"{table}.parquet", "none") != expected:
                yield Fault(
                    path,
                    f"table {table} with SHA-256 {expected}",
                    str(hashes.get(f"{table}.parquet")),
                )


def _check_raw_files(node: Node) -> Iterator[RawFile]:
    """The raw files of a data artifact, and the local base model of any stage."""
    folder = node.path or Path()
    recorded = node.provenance.get("fingerprint", {})
    settings: Mapping[str, Any] = recorded.get("settings", {})
    for source in node.sources:
        name = str(source["name"])
        if source.get("hub"):
            yield RawFile(name, "elsewhere")
            continue
        path = raw_file_path(folder, node.provenance, source)
        found = None if path is None else sha256_of(path)
        yield _raw_file(name, path, f"SHA-256 {source['sha256']}", f"SHA-256 {found}")
    base = settings.get("model", {}).get("base")
    expected = recorded.get("inputs", {}).get(f"file:{base}")
    if expected is not None:
        path = recorded_path(node.provenance, str(base))
        here = path if path.exists() else None
        found = None if here is None else content_digest(here)
        yield _raw_file(f"base model {base}", here, f"digest {expected}", f"digest {found}")


def _raw_file(name: str, path: Path | None, expected: str, found: str) -> RawFile:
    if path is None:
        return RawFile(name, "missing")
    if expected != found:
        return RawFile(name, "changed", path, Fault(str(path), expected, found))
    return RawFile(name, "sound", path)


def _plain(record: CheckedArtifact | RawFile) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(record).items()
    }


def verification_text(verification: Verification) -> str:
    """One line per artifact and raw file."""
    lines = []
    for made in verification.artifacts:
        hashed = f"{made.files} files, {made.bytes:,} bytes" if made.state != "missing" else ""
        lines.append(
            f"{made.state:<8} {made.stage} {made.digest[:SHOWN_DIGEST]}  {hashed}".rstrip()
        )
    lines += [
        f"{raw.state:<8} raw {raw.name}{f'  {raw.path}' if raw.path is not None else ''}"
        for raw in verification.raw_files
    ]
    return "\n".join(lines)
