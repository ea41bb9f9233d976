"""From an artifact back to the raw files, settings and code: read from folders alone.

Every artifact names the digests of its inputs in its provenance; the inputs lie beside it in the
store. MLflow is asked only where a target is named by a run or a registered model.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_core.artifacts import MANIFEST, Artifact, open_artifact
from rlhf_core.errors import ArtifactError
from tasks.datasets import read_sources
from tasks.pages import SHOWN_DIGEST
from tasks.store import SHORTEST_DIGEST, Store


@dataclass(frozen=True)
class Node:
    """One artifact of a lineage."""

    digest: str
    stage: str
    path: Path | None
    """None where the artifact is not in the store: then only its digest is known."""

    provenance: Mapping[str, Any]
    sources: tuple[Mapping[str, Any], ...]
    """The raw files, where the artifact is of stage `data`."""

    inputs: Mapping[str, str]
    """Role to digest."""


@dataclass(frozen=True)
class Lineage:
    """An artifact and everything it was made from, each artifact once."""

    target: str
    """Digest of the artifact that was asked about."""

    nodes: Mapping[str, Node]

    def to_json(self) -> dict[str, Any]:
        """The lineage as one JSON document."""
        return {
            "target": self.target,
            "artifacts": {digest: _node_json(node) for digest, node in self.nodes.items()},
        }


def trace(target: str, store: Store) -> Lineage:
    """Walk from the artifact that `target` names to the raw files.

    `target` is a folder, a digest or its beginning, an MLflow run id, or a registered model as
    `name@alias` or `name/version`.
    """
    artifact = find_target(target, store)
    nodes: dict[str, Node] = {}
    waiting: list[tuple[str, str, Artifact | None]] = [(artifact.digest, artifact.stage, artifact)]
    while waiting:
        digest, stage, found = waiting.pop(0)
        if digest in nodes:
            continue
        node = nodes[digest] = _node(digest, stage, found)
        origin = found.path.parent if found is not None else store.objects
        for record in node.provenance.get("inputs", {}).values():
            parent = _find_input(record["digest"], origin, store)
            waiting.append((record["digest"], record["stage"], parent))
    return Lineage(artifact.digest, nodes)


def find_target(target: str, store: Store) -> Artifact:
    """The artifact that a folder, digest, run id or registered model names."""
    if (Path(target) / MANIFEST).is_file() or Path(target).is_dir():
        return open_artifact(Path(target).resolve())
    if len(target) >= SHORTEST_DIGEST:
        for commit in store.commit_records():
            if commit["runs"]["mlflow_run"].startswith(target):
                return open_artifact(store.object_folder(commit["digest"]))
    try:
        return store.find_artifact(target)
    except ArtifactError:
        digest = _ask_mlflow(target)
        if digest is None:
            raise
    return open_artifact(store.object_folder(digest))


def lineage_text(lineage: Lineage) -> str:
    """The lineage as an indented tree; what was shown above is named only."""
    return "\n".join(_lines(lineage, lineage.target, role=None, depth=0, shown=set()))


def _lines(
    lineage: Lineage, digest: str, *, role: str | None, depth: int, shown: set[str]
) -> Iterator[str]:
    """The lines of one artifact and its inputs; adds their digests to `shown`."""
    node = lineage.nodes[digest]
    pad = "   " * depth
    name = node.stage if role in (None, node.stage) else f"{role}: {node.stage}"
    if digest in shown:
        yield f"{pad}{name} {digest[:SHOWN_DIGEST]} (above)"
        return
    shown.add(digest)
    if node.path is None:
        yield f"{pad}{name} {digest[:SHOWN_DIGEST]} (not in this store)"
        return
    yield f"{pad}{name} {digest[:SHOWN_DIGEST]}{_facts(node.provenance)}"
    for source in node.sources:
        rows = f", {source['rows']} rows" if source.get("rows") is not None else ""
        yield f"{pad}   file {source['name']}, sha256 {source['sha256'][:SHOWN_DIGEST]}{rows}"
    for input_role, input_digest in node.inputs.items():
        yield from _lines(lineage, input_digest, role=input_role, depth=depth + 1, shown=shown)


def _facts(provenance: Mapping[str, Any]) -> str:
    code = provenance["code"]
    commit = code["git_commit"]
    dirty = " with changes" if code["git_dirty"] else ""
    version = f"commit {commit[:SHOWN_DIGEST]}{dirty}" if commit else f"version {code['package']}"
    fingerprint = provenance["fingerprint"]
    return (
        f", run {provenance['runs']['mlflow_run'][:SHOWN_DIGEST]}, seed {fingerprint['seed']}, "
        f"{version}, {provenance['ended_at']}"
    )


def _node(digest: str, stage: str, artifact: Artifact | None) -> Node:
    if artifact is None:
        return Node(digest, stage, None, {}, (), {})
    provenance = artifact.provenance()
    return Node(
        digest=digest,
        stage=stage,
        path=artifact.path,
        provenance=provenance,
        sources=tuple(read_sources(artifact.path)) if stage == "data" else (),
        inputs={role: record["digest"] for role, record in provenance["inputs"].items()},
    )


def _find_input(digest: str, beside: Path, store: Store) -> Artifact | None:
    """The artifact in the store, or beside the one that was made from it."""
    for folder in (store.object_folder(digest), beside / digest):
        if (folder / MANIFEST).is_file():
            return open_artifact(folder)
    return None


def _node_json(node: Node) -> dict[str, Any]:
    return {
        "stage": node.stage,
        "path": None if node.path is None else str(node.path),
        "inputs": dict(node.inputs),
        "sources": [dict(source) for source in node.sources],
        "provenance": dict(node.provenance),
    }


def _ask_mlflow(target: str) -> str | None:
    from tasks.tracking import registered_digest, run_digest  # a second and a half to load

    if "@" in target or "/" in target:
        return registered_digest(target)
    return run_digest(target)
