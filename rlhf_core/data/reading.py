"""One table of the recipe, read batch by batch: rows in our form, faults, and its raw sources."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from rlhf_core.data.batches import MAX_CHARACTERS, MAX_ROWS, RowBatch
from rlhf_core.data.comparisons import RankingJoiner
from rlhf_core.data.disk_room import check_disk_room
from rlhf_core.data.faults import Fault
from rlhf_core.data.hub import Source, find_sources, read_rows
from rlhf_core.data.numbered import NumberedFault
from rlhf_core.data.origins import read_origin
from rlhf_core.data.places import Places
from rlhf_core.data.raw_rows import RawRow, characters_of
from rlhf_core.data.rows import PREFERENCE_FORMS, Form, Row, RowReader, form_of_most
from rlhf_core.data.rules import BESIDE_ROWS
from rlhf_core.data.schemas import TableName
from rlhf_core.data.sources import LocalFile
from rlhf_core.errors import DataError
from rlhf_core.settings.data import TableSettings

_FIRST_COUNT = 20
_FIRST_CHARACTERS = 2**20


class ReadBatch(NamedTuple):
    """Rows that could be read, and the faults of those among them that could not."""

    rows: RowBatch
    faults: Sequence[NumberedFault]


class TableReader:
    """Reads all rows that the settings name, brought to what `table` needs of them.

    What it says about sources and places is whole once all batches were taken.
    """

    def __init__(
        self,
        settings: TableSettings,
        table: TableName,
        *,
        split_by: str,
        scratch: Path,
        disk_share: float,
    ) -> None:
        """`disk_share` is what `scratch` has to have room for, in parts of the sources' size."""
        self._settings = settings
        self._table = table
        self._split_by = split_by
        self._scratch = scratch
        self._disk_share = disk_share
        self.places = Places(scratch, table)
        """Of every raw row, by its number."""
        self.sources: list[dict[str, object]] = []
        self.row_count = 0
        """Raw rows read so far, also those that are none."""
        self.row_readers: dict[str, RowReader] = {}
        """By the name of the file, where rows of it were read."""

    def batches(self) -> Iterator[ReadBatch]:
        """All rows in order; comparisons of one group as the ranking that they say."""
        batches = self._batches()
        if self._settings.format == "rankings":
            joiner = RankingJoiner(self._scratch, self._table)
            for rows, faults in batches:
                joiner.add(rows)
                yield ReadBatch(RowBatch((), ()), faults)
            yield from (ReadBatch(rows, faults) for rows, faults in joiner.joined())
        else:
            yield from batches

    def _batches(self) -> Iterator[ReadBatch]:
        settings = self._settings
        growing = _Growing()
        any_note = False
        file, start = "", 0
        sources = distinctly_named(find_sources(settings, self._table))
        check_disk_room(sources, self._disk_share, self._scratch)
        for source in sources:
            left = None if settings.limit is None else settings.limit - self.row_count
            before = self.row_count
            reader: RowReader | None = None
            raws = read_rows(source, settings, self._table)
            first = _first_rows(raws)
            every = chain(first, raws)
            for raw in every if left is None else _up_to(left, every):
                if isinstance(raw, Fault):
                    growing.faults.append(NumberedFault(self.row_count, raw))
                    if raw.rule in BESIDE_ROWS:  # of the row that follows
                        any_note = True
                        continue
                    growing.places.append(self.places.packed(raw.file, raw.line))
                else:
                    if reader is None:
                        told_by = [one for one in first if isinstance(one, RawRow)] or [raw]
                        reader = _reader(told_by, settings, self._table, self._split_by)
                        self.row_readers[source.name] = reader
                    if raw.file is not file:
                        file, start = raw.file, self.places.packed(raw.file, 0)
                    growing.places.append(start | raw.line)
                    growing.take(self.row_count, reader.read(raw), reader.remarks(raw))
                self.row_count += 1
                if len(growing.places) >= MAX_ROWS or growing.characters >= MAX_CHARACTERS:
                    yield self._grown(growing)
                    growing = _Growing()
            record = source_record(source) | {"table": self._table, "rows": self.row_count - before}
            self.sources.append(record | _written_by(settings))
        if self.row_count == 0 and not any_note:
            raise DataError(
                f"data.{self._table} holds no rows (rule DATA-001): {settings.source} has none but "
                "blank lines. Pass a file with rows."
            )
        yield self._grown(growing)

    def _grown(self, growing: "_Growing") -> ReadBatch:
        self.places.extend(growing.places)
        rows = growing.rows
        if self._table != "preferences":
            rows = [_best_alone(row) for row in rows]
        return ReadBatch(RowBatch(growing.numbers, rows), growing.faults)


class _Growing:
    """A batch that is not full yet."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.rows: list[Row] = []
        self.faults: list[NumberedFault] = []
        self.places: list[int] = []
        self.characters = 0

    def take(self, number: int, row: Row | Fault, remarks: Sequence[Fault]) -> None:
        """One more row, or what keeps it from being one, and what is said beside it."""
        if remarks:
            self.faults += [NumberedFault(number, remark) for remark in remarks]
        if isinstance(row, Fault):
            self.faults.append(NumberedFault(number, row))
            return
        self.numbers.append(number)
        self.rows.append(row)
        self.characters += len(row.prompt) + sum(map(len, row.responses))


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


def _up_to(count: int, raws: Iterable[RawRow | Fault]) -> Iterator[RawRow | Fault]:
    """The first rows; what stands beside a row is none."""
    left = count
    if left == 0:
        return
    for raw in raws:
        yield raw
        left -= not (isinstance(raw, Fault) and raw.rule in BESIDE_ROWS)
        if left == 0:
            return


def _first_rows(raws: Iterator[RawRow | Fault]) -> list[RawRow | Fault]:
    """The first rows, by which a file's form is told: not many, and of few characters."""
    first: list[RawRow | Fault] = []
    held = 0
    while len(first) < _FIRST_COUNT and held < _FIRST_CHARACTERS:
        raw = next(raws, None)
        if raw is None:
            break
        first.append(raw)
        if isinstance(raw, RawRow):
            held += characters_of(raw.fields)
    return first


def _reader(
    first: Sequence[RawRow], settings: TableSettings, table: TableName, split_by: str
) -> RowReader:
    if table == "text":
        if settings.format not in ("auto", "text"):
            raise DataError(
                f"data.text.format: {settings.format!r} has parts, and a plain text has none: use "
                "`text`, and say which column it is, for example "
                "`--set data.text.columns={text: YOUR_COLUMN}`."
            )
        return RowReader("whole_text", settings.columns, split_by, settings.opening_sentences)
    form: Form
    if settings.format == "auto":
        form = form_of_most(first, settings.columns, table)
    else:
        form = settings.format
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


def _best_alone(row: Row) -> Row:
    """The row with its best response, for tables that prefer nothing."""
    if len(row.responses) <= 1 and not row.ranks:
        return row
    best = row.best
    return replace(row, responses=() if best is None else (best,), ranks=())
