"""A difference between two artifacts as people read it."""

from collections.abc import Iterator

from tasks.diff import Change, Difference, shown
from tasks.pages import SHOWN_DIGEST
from tasks.table_diff import TableDifference

SHOWN_VALUE = 60
"""Characters of a value that are shown."""


def diff_text(difference: Difference) -> str:
    """First why they differ, then what, artifact by artifact from the last to the first."""
    if difference.a == difference.b:
        return f"equal: both are {difference.stage} {difference.a}"
    causes = [f"  {cause}" for cause in difference.causes()]
    return "\n".join(["because:", *causes, "", *_lines(difference, None, depth=0, told=set())])


def _lines(
    difference: Difference, role: str | None, *, depth: int, told: set[tuple[str, str]]
) -> Iterator[str]:
    """The lines of one pair and of the inputs that differ; adds the pair to `told`."""
    pad = "   " * depth
    pair = (difference.a, difference.b)
    names = f"A {difference.a[:SHOWN_DIGEST]}, B {difference.b[:SHOWN_DIGEST]}"
    head = f"{pad}{role or difference.stage}: {names}"
    if pair in told:
        yield f"{head} (above)"
        return
    told.add(pair)
    yield head
    if difference.unknown is not None:
        yield f"{pad}   {difference.unknown}"
    for part in ("seed", "settings", "continued", "libraries", "files", "around", "metrics"):
        for change in getattr(difference, part):
            yield f"{pad}   {_part_name(part)}{_change(change)}"
    if difference.code:
        yield f"{pad}   code of {', '.join(change.name for change in difference.code)}"
    for table in difference.tables:
        yield f"{pad}   table {_table(table)}"
    for input_role, inner in difference.inputs.items():
        yield from _lines(inner, input_role, depth=depth + 1, told=told)


def _part_name(part: str) -> str:
    names = {"libraries": "library ", "files": "file ", "around": "around: ", "metrics": "metric "}
    return names.get(part, "")


def _change(change: Change) -> str:
    step = ""
    if isinstance(change.a, int | float) and isinstance(change.b, int | float):
        step = f" ({change.b - change.a:+.4g})"
    return f"{change.name}: {_short(change.a)} -> {_short(change.b)}{step}"


def _table(table: TableDifference) -> str:
    only = [
        f"{count} only in {side}{_examples(examples, count)}"
        for side, count, examples in (
            ("A", table.only_a, table.examples_a),
            ("B", table.only_b, table.examples_b),
        )
        if count
    ]
    rows = f"{table.rows_a} rows" if table.rows_a == table.rows_b else ""
    rows = rows or f"{table.rows_a} -> {table.rows_b} rows"
    return f"{table.table}: {rows}; {', '.join(only) or 'the same rows in another order'}"


def _examples(examples: tuple[str, ...], count: int) -> str:
    return f" ({', '.join(examples)}{', …' if count > len(examples) else ''})"


def _short(value: object) -> str:
    text = shown(value)
    return text if len(text) <= SHOWN_VALUE else f"{text[: SHOWN_VALUE - 1]}…"
