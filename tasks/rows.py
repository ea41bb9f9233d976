"""Row by row: where a raw line went, and where a training row came from."""

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_core.errors import ArtifactError, UserError
from tasks.datasets import CORPUS, TABLES_USED
from tasks.lineage import Lineage, Node
from tasks.raw_files import raw_file_path
from tasks.store import Store

SET_ASIDE = "set-aside.jsonl"

HELD_OUT = (
    "it was read and is in no table: its prompt is held out of this one, since another table "
    "needs it for validation or evaluation; or it repeats a prompt or a demonstration; or it is a "
    "comparison that was joined to the ranking of its group, which stands at the line of the "
    "group's first"
)


@dataclass(frozen=True)
class Place:
    """One row of a table: `demonstrations-train`, row 0 first."""

    table: str
    row: int


@dataclass(frozen=True)
class Reader:
    """An artifact whose making read a table."""

    stage: str
    digest: str
    table: str

    @property
    def trained(self) -> bool:
        """Whether the table is of a training side; other sides only measure."""
        return self.table.endswith("-train")


@dataclass(frozen=True)
class LineUse:
    """What became of one line of a raw file."""

    data: str
    """Digest of the data artifact."""

    file: str
    line: int
    places: tuple[Place, ...]
    set_aside: tuple[Mapping[str, Any], ...]
    """The line's entries in `set-aside.jsonl`: table and rules, and the row where it was read."""

    unused: str | None
    """Why the line is in no table and was not set aside; None where it is."""

    readers: tuple[Reader, ...]
    """Artifacts whose making read one of the places."""

    descendants: tuple[tuple[str, str], ...]
    """Stage and digest of the artifacts made from the readers."""


@dataclass(frozen=True)
class RowOrigin:
    """Where one row of a table came from."""

    data: str
    place: Place
    file: str
    line: int
    sha256: str | None
    """Of the raw file; None where it is of the hub."""

    row: Mapping[str, Any]


def data_node(lineage: Lineage) -> Node:
    """The data artifact of a lineage, the target's own first; refuses where it is not whole here.

    Where an earlier model was made from older data of which it read the same tables, a lineage has
    several.
    """
    target = lineage.nodes[lineage.target]
    own = target.inputs.get("data")
    found = [
        node for node in lineage.in_order if node.stage == "data" and own in (None, node.digest)
    ]
    if len(found) != 1:
        raise ArtifactError(
            f"The lineage of {lineage.target} goes back to {len(found)} data artifacts; pass the "
            "digest or folder of the one that you mean."
        )
    node = found[0]
    if node.path is None or node.fault is not None:
        raise ArtifactError(
            node.fault
            or f"The data artifact {node.digest} is not here. Name its store with --store, or "
            "pass its folder."
        )
    return node


def use_of_line(lineage: Lineage, store: Store, *, file: str, line: int) -> LineUse:
    """Where line `line` of the raw file went, and which artifacts were trained on it.

    Looks at the lineage's own artifacts and at all of the store that have the same data.
    """
    node = data_node(lineage)
    name = _raw_name(node, file, line)
    places = tuple(_places(node, name, line))
    aside = tuple(
        entry for entry in _set_aside(node) if entry["file"] == name and entry["line"] == line
    )
    tables = {place.table for place in places}
    family = _family(lineage, store, node.digest)
    readers = tuple(reader for made in family.values() for reader in _readers(made, tables))
    read = {reader.digest for reader in readers}
    descendants = tuple(
        (made.stage, made.digest)
        for made in family.values()
        if made.digest not in read and _ancestors(made, family) & read
    )
    unused = None if places or aside else _why_unused(node, name, line)
    return LineUse(node.digest, name, line, places, aside, unused, readers, descendants)


def origin_of_row(lineage: Lineage, table: str, row: int) -> RowOrigin:
    """The raw file and line of a table's row; the first row is 0."""
    node = data_node(lineage)
    path = _table_path(node, table)
    columns = _read_columns(path, None)
    count = len(columns["file"])
    if not 0 <= row < count:
        raise UserError(f"{table} of data artifact {node.digest} has rows 0 to {count - 1}.")
    values = {name: column[row] for name, column in columns.items()}
    file, line = str(values.pop("file")), int(values.pop("line"))
    source = next((source for source in node.sources if source["name"] == file), {})
    return RowOrigin(node.digest, Place(table, row), file, line, source.get("sha256"), values)


def _raw_name(node: Node, file: str, line: int) -> str:
    """The name under which the artifact knows the file; refuses a line that was never read."""
    known = [str(source["name"]) for source in node.sources]
    matches = [name for name in known if file == name or Path(file).name == name]
    if not matches:
        raise UserError(
            f"{file} is none of the raw files of data artifact {node.digest}: they are "
            f"{', '.join(known)}."
        )
    if line < 1:
        raise UserError(f"Lines count from 1, there is no line {line}.")
    return matches[0]


def _why_unused(node: Node, name: str, line: int) -> str:
    """Read from the raw file where it is still there, and otherwise the reasons there can be."""
    source = next(source for source in node.sources if source["name"] == name)
    path = raw_file_path(_folder(node), node.provenance, source)
    if path is None or name.endswith(".parquet"):
        return HELD_OUT
    count = 0
    with gzip.open(path) if name.endswith(".gz") else path.open("rb") as lines:
        for count, text in enumerate(lines, start=1):
            if count == line:
                return HELD_OUT if text.strip() else "the line is blank"
    return f"the file has {count} lines"


def _places(node: Node, name: str, line: int) -> Iterator[Place]:
    for file in node.files:
        if not file.path.endswith(".parquet"):
            continue
        columns = _read_columns(_folder(node) / file.path, ("file", "line"))
        for row, place in enumerate(zip(columns["file"], columns["line"], strict=True)):
            if place == (name, line):
                yield Place(file.path.removesuffix(".parquet"), row)


def _set_aside(node: Node) -> Iterator[dict[str, Any]]:
    path = _folder(node) / SET_ASIDE
    if path.exists():
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def _family(lineage: Lineage, store: Store, data: str) -> dict[str, Node]:
    """Every artifact, of the lineage and of the store, that was made from the data artifact."""
    nodes = dict(lineage.nodes)
    for record in store.commit_records():
        digest = str(record["digest"])
        if digest not in nodes and store.object_folder(digest).is_dir():
            inputs = {role: str(made["digest"]) for role, made in record["inputs"].items()}
            nodes[digest] = Node(digest, str(record["stage"]), provenance=record, inputs=inputs)
    return {name: node for name, node in nodes.items() if data in _ancestors(node, nodes)}


def _ancestors(node: Node, nodes: Mapping[str, Node]) -> set[str]:
    found: set[str] = set()
    waiting = list(node.inputs.values())
    while waiting:
        digest = waiting.pop()
        if digest not in found:
            found.add(digest)
            waiting += nodes[digest].inputs.values() if digest in nodes else ()
    return found


def _readers(node: Node, tables: set[str]) -> Iterator[Reader]:
    yield from (
        Reader(node.stage, node.digest, table) for table in tables_of_stage(node) if table in tables
    )


def tables_of_stage(node: Node) -> tuple[str, ...]:
    """The tables that an artifact's making read: as its fingerprint says, or as its stage does."""
    fingerprint = node.provenance.get("fingerprint", {})
    named = [str(name) for name in fingerprint.get("inputs", {}) if name.startswith("data/")]
    if named:
        return tuple(name.removeprefix("data/") for name in named)
    used = next((tables for stage, tables in TABLES_USED.items() if stage == node.stage), ())
    scratch = fingerprint.get("settings", {}).get("model", {}).get("scratch")
    return tuple(dict.fromkeys([*used, *(CORPUS if node.stage == "sft" and scratch else ())]))


def _table_path(node: Node, table: str) -> Path:
    tables = [file.path for file in node.files if file.path.endswith(".parquet")]
    if f"{table}.parquet" not in tables:
        names = ", ".join(name.removesuffix(".parquet") for name in tables)
        raise UserError(f"Data artifact {node.digest} has no table {table!r}, but {names}.")
    return _folder(node) / f"{table}.parquet"


def _folder(node: Node) -> Path:
    return node.path or Path()


def _read_columns(path: Path, names: tuple[str, ...] | None) -> dict[str, list[Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_table(path, columns=list(names) if names else None)
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(
            f"{path} cannot be read as Parquet ({error}): it is damaged. `rlhf verify` says what "
            "else is."
        ) from error
    return {name: columns.column(name).to_pylist() for name in columns.column_names}
