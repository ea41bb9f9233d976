"""Files that no recipe names: which table they are, as their first rows tell it."""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from rlhf_core.data.faults import Fault, render_faults
from rlhf_core.data.raw_rows import characters_of
from rlhf_core.data.row_fields import keys_in_words
from rlhf_core.data.rows import Form, form_of
from rlhf_core.data.schemas import TableName
from rlhf_core.data.shown_text import visible
from rlhf_core.data.sources import DATA_SUFFIXES, LocalFile, RawRow, read_file
from rlhf_core.errors import DataError

_ENDINGS = f"file whose name ends in {', '.join(DATA_SUFFIXES)}"

_PEEKED = 100
"""Rows of a file by which its form is told, so that a broken first one decides nothing."""

_PEEKED_CHARACTERS = 2**20
"""Fewer rows are enough where they are long."""

_TABLES: Mapping[Form, TableName] = {
    "rankings": "preferences",
    "pairs": "preferences",
    "transcripts": "preferences",
    "prompt_response": "demonstrations",
    "messages": "demonstrations",
    "prompts": "prompts",
    "text": "text",
    "whole_text": "text",
}

COLUMNS = (
    *("prompt", "response", "chosen", "rejected", "responses", "ranks", "messages", "text"),
    *("source", "group", "margin", "confidence"),
)
"""Our names of columns, of which a file may have some under names of its own."""


_FORMS = (
    *("(prompt, response)", "(messages)", "(prompt, chosen, rejected)"),
    *("(prompt, responses, ranks)", "(chosen, rejected)", "(prompt)", "(text)"),
)

_ALSO_CALLED: Mapping[str, tuple[str, ...]] = {
    "prompt": ("input", "instruction", "query", "question"),
    "response": ("answer", "completion", "output", "reply", "solution", "target"),
    "chosen": ("accepted", "better", "preferred", "winner"),
    "rejected": ("dispreferred", "loser", "worse"),
    "text": ("body", "content", "document", "story"),
}
"""Names that data sets give to what is ours; taken for a hint, never for the column."""


class LooseFile(NamedTuple):
    """A data file and the table it is."""

    path: Path
    table: TableName


def loose_files(
    paths: Sequence[Path], table: TableName | None, columns: Mapping[str, str]
) -> list[LooseFile]:
    """The data files of the paths, each once; folders stand for the data files in them."""
    for ours in columns:
        if ours not in COLUMNS:
            near = difflib.get_close_matches(ours, [*COLUMNS, *columns.values()], n=1)
            hint = f" Did you mean {near[0]!r}?" if near and near[0] in COLUMNS else ""
            raise DataError(
                f"--columns {visible(ours)}={visible(columns[ours])}: {visible(ours)!r} is none of "
                f"our names, which are {', '.join(COLUMNS)}.{hint} Write OURS=YOURS, for example "
                "`--columns prompt=question`."
            )
    found: dict[Path, Path] = {}
    for path in paths:
        for file in _data_files(path):
            found.setdefault(file.resolve(), file)
    return [LooseFile(path, table or _table_of(path, columns)) for path in found.values()]


def _data_files(path: Path) -> list[Path]:
    """The file itself, or the data files of the folder in the order of their names."""
    try:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if _is_shard(file, path))
            if not inside:
                raise _refused(path, "DATA-001", f"the folder holds no {_ENDINGS}")
            return inside
        if not path.exists():
            raise _refused(path, "DATA-005", "there is no such file")
        if not path.is_file():
            seen = "no file that can be read again, but a pipe or a device: write it into a file"
            raise _refused(path, "DATA-002", seen)
    except (OSError, ValueError) as error:
        seen = getattr(error, "strerror", None) or str(error)
        raise _refused(path, "DATA-005", f"the path cannot be followed: {seen}") from None
    if not path.name.lower().endswith(DATA_SUFFIXES):
        seen = (
            f"the name ends like no data file ({', '.join(DATA_SUFFIXES)}) and no recipe (.yaml): "
            "write its rows as JSONL, or rename it"
        )
        raise _refused(path, "DATA-002", seen)
    return [path]


def _refused(path: Path, rule: str, seen: str) -> DataError:
    return DataError(render_faults([Fault(rule, str(path), 1, "", seen)]))


def _is_shard(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not hidden and file.name.lower().endswith(DATA_SUFFIXES) and file.is_file()


def _table_of(path: Path, columns: Mapping[str, str]) -> TableName:
    """The table that most of the first rows are; the first row need not be one of them."""
    rows = _first_rows(path)
    counted = Counter(_TABLES[form] for row in rows if (form := _form(row, columns)) is not None)
    if counted:
        return counted.most_common(1)[0][0]
    if rows:
        raise DataError(_no_form(rows[0], columns))
    return "demonstrations"  # whoever reads all of the file names what is wrong with its lines


def _first_rows(path: Path) -> list[RawRow]:
    """The first rows without their values, which may be large."""
    peeked: list[RawRow] = []
    held = 0
    try:
        for row in islice(read_file(LocalFile(path.name, path, "", 0)), _PEEKED):
            if isinstance(row, RawRow):
                peeked.append(row._replace(fields=dict.fromkeys(row.fields)))
                held += characters_of(row.fields)
            if held > _PEEKED_CHARACTERS:
                break
    except OSError as error:
        raise _refused(path, "DATA-005", f"the file cannot be read: {error.strerror}") from None
    return peeked


def _form(row: RawRow, columns: Mapping[str, str]) -> Form | None:
    """The form of one row; one with a prompt and nothing that looks like an answer is a prompt."""
    for table in ("demonstrations", "prompts"):
        try:
            form = form_of(row, columns, table)
        except DataError:
            continue
        return None if form == "prompts" and "response" in _meant(row, columns) else form
    return None


def _meant(row: RawRow, columns: Mapping[str, str]) -> dict[str, str]:
    """Our name to the row's column that is usually called so, where the row has none of ours."""
    given = {**dict.fromkeys(row.fields), **columns}
    return {
        ours: next(name for name in names if name in row.fields)
        for ours, names in _ALSO_CALLED.items()
        if ours not in given and any(name in row.fields for name in names)
    }


def _no_form(row: RawRow, columns: Mapping[str, str]) -> str:
    seen = f"the row has {keys_in_words(row.fields)}; expected are {' or '.join(_FORMS)}"
    meant = _meant(row, columns) or {"prompt": "YOUR_COLUMN"}
    options = " ".join(f"--columns {ours}={theirs}" for ours, theirs in meant.items())
    return (
        f"{render_faults([Fault('SCH-002', row.file, row.line, '', seen)])}\n"
        f"Say which column is which, for example `{options}`, or which table it is, `--table "
        "prompts`."
    )
