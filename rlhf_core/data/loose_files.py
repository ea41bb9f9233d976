"""Files that no recipe names: which table they are, as their first rows tell it."""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from rlhf_core.data.rows import Form, form_of
from rlhf_core.data.rules import Fault, render_faults, visible
from rlhf_core.data.schemas import TableName
from rlhf_core.data.sources import DATA_SUFFIXES, LocalFile, RawRow, read_file
from rlhf_core.errors import DataError

_ENDINGS = f"file whose name ends in {', '.join(DATA_SUFFIXES)}"

_PEEKED = 100
"""Rows of a file by which its form is told, so that a broken first one decides nothing."""

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


_FORMS: Mapping[TableName, str] = {
    "demonstrations": "(prompt, response) or (messages)",
    "preferences": "(prompt, chosen, rejected) or (prompt, responses, ranks) or (chosen, rejected)",
    "prompts": "(prompt)",
    "text": "(text)",
}


class LooseFile(NamedTuple):
    """A data file, the table it is, and its form; None where the reader can tell it by itself."""

    path: Path
    table: TableName
    form: Form | None


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
    return [_told(path, table, columns) for path in found.values()]


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
        seen = f"the name ends like no data file ({', '.join(DATA_SUFFIXES)}) and no recipe (.yaml)"
        raise _refused(path, "DATA-002", seen)
    return [path]


def _refused(path: Path, rule: str, seen: str) -> DataError:
    return DataError(render_faults([Fault(rule, str(path), 1, "", seen)]))


def _is_shard(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not hidden and file.name.lower().endswith(DATA_SUFFIXES) and file.is_file()


def _told(path: Path, table: TableName | None, columns: Mapping[str, str]) -> LooseFile:
    """The form that most of the first rows have; the first row need not be one of them."""
    rows = _first_rows(path)
    forms = [_form(row, columns, table) for row in rows]
    counted = Counter(form for form in forms if form is not None)
    if not counted:
        if not rows:  # whoever reads all of the file names what is wrong with its lines
            return LooseFile(path, table or "demonstrations", None)
        raise DataError(_no_form(rows[0], table))
    form = counted.most_common(1)[0][0]
    told = table or _TABLES[form]
    if told == "text":
        form = "text"
    return LooseFile(path, told, None if forms[0] == form else form)


def _first_rows(path: Path) -> list[RawRow]:
    try:
        peeked = list(islice(read_file(LocalFile(path.name, path, "", 0)), _PEEKED))
    except OSError as error:
        raise _refused(path, "DATA-005", f"the file cannot be read: {error.strerror}") from None
    return [row for row in peeked if isinstance(row, RawRow)]


def _form(row: RawRow, columns: Mapping[str, str], table: TableName | None) -> Form | None:
    """The form of one row; a row with a prompt and nothing to it is a prompt."""
    for named in (table,) if table else ("demonstrations", "prompts"):
        try:
            form = form_of(row, columns, named)
        except DataError:
            continue
        return "text" if table == "text" else form
    return None


def _no_form(row: RawRow, table: TableName | None) -> str:
    found = ", ".join(visible(str(name)) for name in sorted(row.fields)) or "none"
    forms = [_FORMS[table]] if table else list(_FORMS.values())
    seen = f"the columns are {found}; expected are {' or '.join(forms)}"
    fault = Fault("SCH-002", row.file, row.line, "", seen)
    return (
        f"{render_faults([fault])}\nSay which column is which, for example "
        "`--columns prompt=YOUR_COLUMN`, and if need be which table it is, "
        "`--table preferences`."
    )
