"""One table of the recipe, read: its rows in our form, its faults, and its raw sources."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice

from rlhf_core.data.comparisons import join_rankings
from rlhf_core.data.hub import Source, find_sources, read_rows
from rlhf_core.data.origins import read_origin
from rlhf_core.data.rows import PREFERENCE_FORMS, Row, RowReader, form_of
from rlhf_core.data.rules import BESIDE_ROWS, Fault
from rlhf_core.data.schemas import TableName
from rlhf_core.data.sources import LocalFile, RawRow
from rlhf_core.errors import DataError
from rlhf_core.settings.data import TableSettings


@dataclass(frozen=True, slots=True)
class ReadTable:
    """The rows that could be read, the faults of those that could not, and the raw sources."""

    rows: list[Row]
    faults: list[Fault]
    sources: list[dict[str, object]]
    row_count: int


def read_table(settings: TableSettings, table: TableName, *, split_by: str) -> ReadTable:
    """All rows that the settings name, brought to what `table` needs of them."""
    rows: list[Row] = []
    faults: list[Fault] = []
    records = []
    row_count = 0
    for source in distinctly_named(find_sources(settings, table)):
        left = None if settings.limit is None else settings.limit - row_count
        before = row_count
        reader: RowReader | None = None
        for raw in islice(read_rows(source, settings, table), left):
            row_count += 1
            if isinstance(raw, Fault):
                faults.append(raw)
                row_count -= raw.rule in BESIDE_ROWS
                continue
            reader = reader or _reader(raw, settings, table, split_by)
            row = reader.read(raw)
            if isinstance(row, Fault):
                faults.append(row)
            else:
                rows.append(row)
        record = source_record(source) | {"table": table, "rows": row_count - before}
        records.append(record | _written_by(settings))
    if row_count == 0 and not faults:
        raise DataError(
            f"data.{table} holds no rows (rule DATA-001): {settings.source} has none but blank "
            "lines. Pass a file with rows."
        )
    if settings.format == "rankings":
        joined = join_rankings(rows)
        rows, faults = joined.rows, [*faults, *joined.faults]
    return ReadTable([_of_use(row, table) for row in rows], faults, records, row_count)


def source_record(source: Source) -> dict[str, object]:
    """What identifies the raw source wherever it lies: name and hash, or hub id and commit."""
    if isinstance(source, LocalFile):
        record = {"name": source.name, "sha256": source.sha256, "bytes": source.bytes}
        origin = read_origin(source.path, source.sha256)
        return record if origin is None else record | {"origin": origin}
    return {
        "name": source.name,
        "hub": True,
        "subset": source.subset,
        "split": source.split,
        "commit": source.commit,
    }


def _written_by(settings: TableSettings) -> dict[str, object]:
    """Who wrote the rows, where the recipe says so."""
    if settings.origin is None:
        return {}
    return {"written_by": settings.origin.model_dump(mode="json", exclude_none=True)}


def distinctly_named(sources: Iterable[Source]) -> list[Source]:
    """The sources, a second one of equal name as `name#2`, so that a row's place is one place."""
    seen: Counter[str] = Counter()
    distinct: list[Source] = []
    for source in sources:
        seen[source.name] += 1
        count = seen[source.name]
        distinct.append(source if count == 1 else source._replace(name=f"{source.name}#{count}"))
    return distinct


def _reader(first: RawRow, settings: TableSettings, table: TableName, split_by: str) -> RowReader:
    if table == "text":
        if settings.format not in ("auto", "text"):
            raise DataError(
                f"data.text.format: {settings.format!r} has parts, and a plain text has none: use "
                "`text`, and say which column it is, for example "
                "`--set data.text.columns={text: YOUR_COLUMN}`."
            )
        return RowReader("whole_text", settings.columns, split_by, settings.opening_sentences)
    form = form_of(first, settings.columns, table) if settings.format == "auto" else settings.format
    if table == "preferences" and form not in PREFERENCE_FORMS:
        raise DataError(
            f"data.preferences.format: {form!r} has one response a row and so prefers nothing: "
            f"use one of {', '.join(PREFERENCE_FORMS)}."
        )
    if table == "demonstrations" and form == "prompts":
        raise DataError(
            "data.demonstrations.format: 'prompts' has no response to imitate: use "
            "prompt_response, messages or text, or give the file as data.prompts."
        )
    return RowReader(form, settings.columns, split_by, settings.opening_sentences)


def _of_use(row: Row, table: TableName) -> Row:
    """Preferences keep all responses; the other tables the best one alone."""
    if table == "preferences":
        return row
    best = row.best
    return replace(row, responses=() if best is None else (best,), ranks=())
