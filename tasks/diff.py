"""Why two artifacts differ: settings, seed, data, code, libraries, machine; down to the raw rows.

What decides a result is in the fingerprints. Two artifacts of equal fingerprints should be equal;
where they are not, the machine or its thread count is the likely cause, and this says so.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rlhf_core.errors import UserError
from rlhf_core.settings.base import STAGES
from tasks.continuations import past_lines
from tasks.lineage import Lineage, Node, code_text
from tasks.pages import SHOWN_DIGEST
from tasks.table_diff import TableDifference, table_differences

NOT_HERE = "not here, so it cannot be compared"


class Change(NamedTuple):
    """One value that is not the same; None where it is not there."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Difference:
    """What is not the same in two artifacts, and in what they were made from."""

    a: str
    b: str
    stage: str
    settings: tuple[Change, ...] = ()
    seed: tuple[Change, ...] = ()
    continued: tuple[Change, ...] = ()
    """The checkpoint of other settings from which training went on."""

    code: tuple[Change, ...] = ()
    """Modules of the core whose syntax tree differs."""

    libraries: tuple[Change, ...] = ()
    """Those that decide the fingerprint."""

    files: tuple[Change, ...] = ()
    """Raw files and local base models, by SHA-256."""

    tables: tuple[TableDifference, ...] = ()
    """Rows of data artifacts that only one of them has."""

    around: tuple[Change, ...] = ()
    """Where and with what else it ran: machine, threads, other libraries, commit."""

    metrics: tuple[Change, ...] = ()
    payload: tuple[Change, ...] = ()
    """Payload files by SHA-256."""

    inputs: Mapping[str, "Difference"] = field(default_factory=dict)
    """Role to what differs in that input; equal inputs are left out."""

    unknown: str | None = None
    """Why the two could not be compared."""

    @property
    def decided(self) -> bool:
        """Whether something that decides the result differs here, inputs aside."""
        parts = (self.settings, self.seed, self.continued, self.code, self.libraries, self.files)
        return any(parts)

    def causes(self) -> list[str]:
        """One sentence for each first cause and the stages it acts in, the earliest first."""
        stages: dict[str, list[str]] = {}
        for stage, sentence in self.stage_causes():
            known = stages.setdefault(sentence, [])
            known += [stage] if stage not in known else []
        return [f"{', '.join(names)}: {sentence}" for sentence, names in stages.items()]

    def stage_causes(self) -> Iterator[tuple[str, str]]:
        """Stage and sentence of each cause, those of the inputs first."""
        for role in sorted(self.inputs, key=[str(stage) for stage in STAGES].index):
            yield from self.inputs[role].stage_causes()
        if self.a == self.b:
            return
        if self.unknown is not None:
            yield self.stage, self.unknown
        for change in (*self.seed, *self.settings, *self.libraries):
            yield self.stage, f"{change.name} {shown(change.a)} -> {shown(change.b)}"
        for change in self.continued:
            yield self.stage, f"{change.name}: A {shown(change.a)}; B {shown(change.b)}"
        for change in self.files:
            yield self.stage, f"{change.name} {_change_of_content(change)}"
        for change in self.code:
            yield self.stage, f"the code of {change.name} was changed"
        if not (self.decided or self.inputs or self.unknown):
            around = ", ".join(change.name for change in self.around)
            yield (
                self.stage,
                "nothing that decides the result differs, but the bytes do; different around it: "
                + (around or "nothing that was recorded"),
            )

    def to_json(self) -> dict[str, Any]:
        """The difference as one JSON document."""
        document: dict[str, Any] = {"a": self.a, "b": self.b, "stage": self.stage}
        document |= {"equal": self.a == self.b, "causes": self.causes(), "unknown": self.unknown}
        for part in PARTS:
            document[part] = [change._asdict() for change in getattr(self, part)]
        document["tables"] = [table._asdict() for table in self.tables]
        document["inputs"] = {role: part.to_json() for role, part in self.inputs.items()}
        return document


PARTS = (
    "settings",
    "seed",
    "continued",
    "code",
    "libraries",
    "files",
    "around",
    "metrics",
    "payload",
)
"""The parts of a difference that are lists of changes."""


def diff_lineages(a: Lineage, b: Lineage) -> Difference:
    """What differs between the targets of two lineages, and in everything they were made from."""
    first, second = a.nodes[a.target], b.nodes[b.target]
    if first.stage != second.stage:
        raise UserError(
            f"{first.name} and {second.name} are of different stages, so there is no one thing to "
            "compare. Pass two artifacts of one stage."
        )
    return _compare(a, b, first, second)


def _compare(all_a: Lineage, all_b: Lineage, a: Node, b: Node) -> Difference:
    if not (a.provenance and b.provenance):
        gone = " and ".join(node.name for node in (a, b) if not node.provenance)
        return Difference(a.digest, b.digest, a.stage, unknown=f"{gone} is {NOT_HERE}")
    parts_a, parts_b = a.provenance["fingerprint"], b.provenance["fingerprint"]
    metrics = _changes(a.provenance.get("metrics", {}), b.provenance.get("metrics", {}))
    return Difference(
        a=a.digest,
        b=b.digest,
        stage=a.stage,
        settings=_changes(parts_a.get("settings", {}), parts_b.get("settings", {})),
        seed=_changes({"seed": parts_a.get("seed")}, {"seed": parts_b.get("seed")}),
        continued=_changes(_past(parts_a), _past(parts_b)),
        code=_changes(parts_a.get("code", {}), parts_b.get("code", {})),
        libraries=_changes(parts_a.get("libraries", {}), parts_b.get("libraries", {})),
        files=_changes(_raw(a), _raw(b)),
        tables=tuple(table_differences(a, b)),
        around=_changes(_around(a), _around(b)),
        metrics=metrics,
        payload=_changes(
            {file.path: file.sha256 for file in a.files},
            {file.path: file.sha256 for file in b.files},
        ),
        inputs={
            role: _compare(all_a, all_b, all_a.nodes[digest], all_b.nodes[b.inputs[role]])
            for role, digest in a.inputs.items()
            if role in b.inputs and b.inputs[role] != digest and not _read_the_same(a, b, role)
        },
    )


def _past(fingerprint: Mapping[str, Any]) -> dict[str, str]:
    lines = past_lines(fingerprint.get("continued"))
    return {"past": "; ".join(lines)} if lines else {}


def _read_the_same(a: Node, b: Node, role: str) -> bool:
    """Whether both read of different artifacts only tables that are equal."""
    tables_a, tables_b = (
        {name: x for name, x in _recorded_inputs(node).items() if name.startswith(f"{role}/")}
        for node in (a, b)
    )
    return bool(tables_a) and tables_a == tables_b


def _recorded_inputs(node: Node) -> dict[str, str]:
    inputs: dict[str, str] = node.provenance["fingerprint"].get("inputs", {})
    return inputs


def _changes(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> tuple[Change, ...]:
    """Every leaf that differs, by dotted name, in the order of `a` and then of `b`."""
    found: list[Change] = []
    for name in {**a, **b}:
        old, new = a.get(name), b.get(name)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _changes(old, new, f"{prefix}{name}.")
        else:
            found.append(Change(f"{prefix}{name}", old, new))
    return tuple(found)


def _raw(node: Node) -> dict[str, str]:
    """Name to content of the raw files, hub data sets and local files that the stage read."""
    named = {
        str(source["name"]): str(source.get("sha256") or f"hub commit {source.get('commit')}")
        for source in node.sources
    }
    recorded = _recorded_inputs(node)
    base = node.provenance["fingerprint"].get("settings", {}).get("model", {}).get("base")
    if f"file:{base}" in recorded:
        named[f"base model {base}"] = recorded[f"file:{base}"]
    return named


def _around(node: Node) -> dict[str, Any]:
    provenance = node.provenance
    deciding = provenance["fingerprint"].get("libraries", {})
    others = {
        name: x for name, x in provenance.get("libraries", {}).items() if name not in deciding
    }
    return {
        "code": code_text(provenance["code"]),
        "machine": provenance.get("machine", {}),
        "libraries": others,
    }


def _change_of_content(change: Change) -> str:
    if change.a is None:
        return "is in B only"
    if change.b is None:
        return "is in A only"
    return f"holds other bytes: {change.a[:SHOWN_DIGEST]} -> {change.b[:SHOWN_DIGEST]}"


def shown(value: object) -> str:
    """A value in a line; one that is not there as a dash."""
    if value is None:
        return "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
