"""From an artifact back to the raw files, settings and code: read from folders alone.

Every artifact names the digests of its inputs in its provenance; the inputs lie in the store, or
beside the artifact where it was copied to.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rlhf_core.artifacts import (
    MANIFEST,
    REMADE,
    Artifact,
    PayloadFile,
    open_artifact,
    read_provenance,
)
from rlhf_core.data.origins import CHANGED
from rlhf_core.errors import ArtifactError
from tasks.continuations import past_lines
from tasks.datasets import read_sources
from tasks.pages import SHOWN_DIGEST
from tasks.store import Store
from tasks.targets import find_folder

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Node:
    """One artifact of a lineage."""

    digest: str
    stage: str
    path: Path | None = None
    """None where the artifact is not here: then only its digest is known."""

    provenance: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[PayloadFile, ...] = ()
    """The payload as the manifest lists it."""

    sources: tuple[Mapping[str, Any], ...] = ()
    """The raw files, where the artifact is of stage `data`."""

    inputs: Mapping[str, str] = field(default_factory=dict)
    """Role to digest."""

    fault: str | None = None
    """What is wrong with the folder at first sight, before any file is hashed."""

    @property
    def name(self) -> str:
        """Stage and the beginning of the digest."""
        return f"{self.stage} {self.digest[:SHOWN_DIGEST]}"


@dataclass(frozen=True)
class Lineage:
    """An artifact and everything it was made from, each artifact once."""

    target: str
    """Digest of the artifact that was asked about."""

    nodes: Mapping[str, Node]

    @cached_property
    def in_order(self) -> tuple[Node, ...]:
        """Every artifact after those it was made from."""
        order: list[Node] = []
        seen: set[str] = set()

        def add(digest: str) -> None:
            if digest not in seen:
                seen.add(digest)
                for parent in self.nodes[digest].inputs.values():
                    add(parent)
                order.append(self.nodes[digest])

        add(self.target)
        return tuple(order)

    def to_json(self) -> dict[str, Any]:
        """The lineage as one JSON document."""
        return {
            "target": self.target,
            "artifacts": {digest: _node_json(node) for digest, node in self.nodes.items()},
        }


def trace(target: str, store: Store) -> Lineage:
    """Walk from the artifact that `target` names to the raw files; see `tasks.targets`.

    An artifact on the way that is damaged or not here is a node that says so.
    """
    return trace_folder(find_folder(target, store), store)


def trace_folder(folder: Path, store: Store) -> Lineage:
    """Walk from the artifact in `folder` to the raw files."""
    if not (folder / MANIFEST).is_file():
        open_artifact(folder)  # says that this is no artifact
    named = folder.name if _DIGEST.fullmatch(folder.name) else None
    first = _node(folder, digest=named, stage=None)
    nodes = {first.digest: first}
    waiting = [first]
    while waiting:
        node = waiting.pop(0)
        for role, digest in node.inputs.items():
            if digest not in nodes:
                stage = str(node.provenance["inputs"][role]["stage"])
                nodes[digest] = _input_node(digest, stage, node.path, store)
                waiting.append(nodes[digest])
    return Lineage(first.digest, nodes)


def lineage_text(lineage: Lineage) -> str:
    """The lineage as an indented tree; what was shown above is named only."""
    return "\n".join(_lines(lineage, lineage.target, role=None, depth=0, shown=set()))


def _lines(
    lineage: Lineage, digest: str, *, role: str | None, depth: int, shown: set[str]
) -> Iterator[str]:
    """The lines of one artifact and its inputs; adds their digests to `shown`."""
    node = lineage.nodes[digest]
    pad = "   " * depth
    name = node.name if role in (None, node.stage) else f"{role}: {node.name}"
    if digest in shown:
        yield f"{pad}{name} (above)"
        return
    shown.add(digest)
    if node.path is None:
        yield f"{pad}{name} (not here: neither in the store nor beside what was made from it)"
        return
    yield f"{pad}{name}{_facts(node.provenance)}"
    for line in past_lines(node.provenance.get("fingerprint", {}).get("continued")):
        yield f"{pad}   {line}"
    if node.fault is not None:
        yield f"{pad}   DAMAGED: {node.fault}"
    if node.stage == "data":
        yield from (f"{pad}   {line}" for line in changed_rules(node.provenance))
    for source in node.sources:
        yield f"{pad}   file {source_facts(source)}"
    for input_role, input_digest in node.inputs.items():
        yield from _lines(lineage, input_digest, role=input_role, depth=depth + 1, shown=shown)


def changed_rules(provenance: Mapping[str, Any]) -> Iterator[str]:
    """One line with the rules whose action the recipe changed; none where it changed none."""
    settings = provenance.get("fingerprint", {}).get("settings", {}).get("data", {})
    rules: Mapping[str, str] = settings.get("rules") or {}
    if rules:
        yield f"rules changed: {', '.join(f'{rule} {rules[rule]}' for rule in sorted(rules))}"


def source_facts(source: Mapping[str, Any]) -> str:
    """One raw file or hub data set in a line: name, content, rows."""
    rows = f", {source['rows']} rows" if source.get("rows") is not None else ""
    if source.get("hub"):
        content = f"hub commit {(source.get('commit') or 'unknown')[:SHOWN_DIGEST]}"
    else:
        content = f"sha256 {str(source.get('sha256'))[:SHOWN_DIGEST]}"
    written = writer_facts(source)
    origin = _origin_facts(source.get("origin"))
    return f"{source.get('name')}, {content}{rows}{f', {written}' if written else ''}{origin}"


def writer_facts(source: Mapping[str, Any]) -> str:
    """Who wrote the rows of a raw file, and under which licence; empty where nobody said so."""
    written: Mapping[str, Any] = source.get("written_by") or {}
    if not written:
        return ""
    licence = f" ({written['licence']})" if written.get("licence") else ""
    if written["by"] == "teacher":
        return f"written by the teacher model {written['teacher']}{licence}"
    return f"written by people{licence}"


def _origin_facts(origin: Mapping[str, Any] | None) -> str:
    """Whose responses a file holds, where it says so."""
    if not origin:
        return ""
    shown = [digest[:SHOWN_DIGEST] for digest in origin["policies"]]
    named = ", ".join(shown) or "not named"
    changed = ", changed since it was written" if origin.get(CHANGED) else ""
    labeler = f", ranked by {origin['labeler']}" if origin.get("labeler") else ""
    return f", {origin.get('kind', 'collected')}: responses of policy {named}{labeler}{changed}"


def code_text(code: Mapping[str, Any]) -> str:
    """Commit or version of the code in a few words."""
    commit = code.get("git_commit")
    if not commit:
        return f"version {code.get('package', 'unknown')}"
    return f"commit {commit[:SHOWN_DIGEST]}{' with changes' if code.get('git_dirty') else ''}"


def _facts(provenance: Mapping[str, Any]) -> str:
    if not provenance:
        return ""
    return (
        f", run {str(provenance['runs']['mlflow_run'])[:SHOWN_DIGEST]}, "
        f"seed {provenance['fingerprint']['seed']}, "
        f"{code_text(provenance['code'])}, {provenance['ended_at']}"
    )


def _input_node(digest: str, stage: str, child: Path | None, store: Store) -> Node:
    """The artifact with this digest, in the store or beside the one that was made from it."""
    candidates = [store.object_folder(digest)]
    if child is not None:
        candidates.append(child.parent / digest)
    here = [folder for folder in candidates if (folder / MANIFEST).is_file()]
    if not here and child is not None:
        here = _siblings(child, digest)
    nodes = [_node(folder, digest=digest, stage=stage) for folder in here]
    sound = [node for node in nodes if node.fault is None]
    return next(iter([*sound, *nodes]), Node(digest, stage))


def _siblings(folder: Path, digest: str) -> list[Path]:
    """Folders beside this one, under whatever name, whose manifest has the digest."""
    return [
        path.parent
        for path in sorted(folder.parent.glob(f"*/{MANIFEST}"))
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest
    ]


def _node(folder: Path, *, digest: str | None, stage: str | None) -> Node:
    """What the folder says of itself, and what of it does not fit together."""
    faults = []
    artifact: Artifact | None = None
    found = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    if digest not in (None, found):
        faults.append(
            f"{folder / MANIFEST} is damaged: its SHA-256 is {found}, but the artifact's digest "
            f"is {digest}. {REMADE}"
        )
    provenance: dict[str, Any] = {}
    inputs: dict[str, str] = {}
    try:
        provenance = read_provenance(folder)
        inputs = _read_inputs(folder, provenance)
    except ArtifactError as error:
        provenance = {}
        faults.append(str(error))
    try:
        artifact = open_artifact(folder)
    except ArtifactError as error:
        faults.append(str(error))
    stage = artifact.stage if artifact is not None else stage or str(provenance.get("stage", "?"))
    sources: list[dict[str, Any]] = []
    if stage == "data":
        try:
            sources = read_sources(folder)
        except (OSError, ValueError, RecursionError) as error:
            faults.append(f"{folder} has a damaged list of raw files ({error}).")
    return Node(
        digest=digest or found,
        stage=stage,
        path=folder,
        provenance=provenance,
        files=artifact.files if artifact is not None else (),
        sources=tuple(sources),
        inputs=inputs,
        fault=" ".join(faults) or None,
    )


def _read_inputs(folder: Path, provenance: Mapping[str, Any]) -> dict[str, str]:
    """Role to digest; refuses a record that lacks what every view of the lineage reads."""
    try:
        for part, name in (("runs", "mlflow_run"), ("fingerprint", "seed"), ("code", "package")):
            provenance[part][name]
        provenance["ended_at"]
        records = provenance["inputs"].items()
        return {str(role): str(it["digest"]) for role, it in records if str(it["stage"])}
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{folder} has a damaged provenance.json ({type(error).__name__}: {error}). {REMADE}"
        ) from error


def _node_json(node: Node) -> dict[str, Any]:
    return {
        "stage": node.stage,
        "path": None if node.path is None else str(node.path),
        "fault": node.fault,
        "inputs": dict(node.inputs),
        "sources": [dict(source) for source in node.sources],
        "provenance": dict(node.provenance),
    }
