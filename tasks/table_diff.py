"""Which rows of two data artifacts only one of them has."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from rlhf_core.artifacts import digest
from tasks.lineage import Node

SHOWN_ROWS = 5
"""Rows that are named where the two differ."""

WHERE = ("file", "line")
"""Columns that say where a row stood; rows are compared by the others."""


class TableDifference(NamedTuple):
    """Rows of one table that only one of two artifacts has, and where the first of them stood."""

    table: str
    rows_a: int
    rows_b: int
    only_a: int
    only_b: int
    examples_a: tuple[str, ...]
    """`file:line` in the raw files."""

    examples_b: tuple[str, ...]


def table_differences(a: Node, b: Node) -> Iterator[TableDifference]:
    """Every table whose bytes differ, compared row by row; nothing for other stages than data."""
    if "data" not in (a.stage, b.stage) or a.path is None or b.path is None:
        return
    hashes_a = {file.path: file.sha256 for file in a.files}
    hashes_b = {file.path: file.sha256 for file in b.files}
    for name in sorted({**hashes_a, **hashes_b}):
        if name.endswith(".parquet") and hashes_a.get(name) != hashes_b.get(name):
            rows_a, rows_b = _rows(a, name), _rows(b, name)
            only_a, only_b = _only(rows_a, rows_b), _only(rows_b, rows_a)
            yield TableDifference(
                table=name.removesuffix(".parquet"),
                rows_a=len(rows_a),
                rows_b=len(rows_b),
                only_a=len(only_a),
                only_b=len(only_b),
                examples_a=tuple(only_a[:SHOWN_ROWS]),
                examples_b=tuple(only_b[:SHOWN_ROWS]),
            )


def _rows(node: Node, name: str) -> list[tuple[str, str]]:
    """Hash of the content and `file:line` of each row; none where the table is not there."""
    import pyarrow.parquet as pq

    if node.path is None or not (node.path / name).is_file():
        return []
    rows: list[dict[str, Any]] = pq.read_table(node.path / name).to_pylist()
    return [
        (digest({key: x for key, x in row.items() if key not in WHERE}), _where(row))
        for row in rows
    ]


def _where(row: dict[str, Any]) -> str:
    return f"{row.get('file')}:{row.get('line')}"


def _only(rows: list[tuple[str, str]], others: list[tuple[str, str]]) -> list[str]:
    """Places of the rows that `others` lacks; of equal rows, as many as are more."""
    left = Counter(content for content, _ in others)
    found = []
    for content, where in rows:
        if left[content]:
            left[content] -= 1
        else:
            found.append(where)
    return found
