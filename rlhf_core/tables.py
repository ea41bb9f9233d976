"""The tables of the data artifact: written here, and read by every later stage.

Files are Parquet under a fixed schema, so equal rows give equal bytes. pandas is loaded where a
table is read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq

from rlhf_core.errors import ArtifactError

if TYPE_CHECKING:
    import pandas as pd

DemonstrationSplit = Literal["train", "validation"]
PreferenceSplit = Literal["train", "validation"]
PromptSplit = Literal["train", "evaluation"]
TextSplit = Literal["train", "validation"]

_WHERE = [("file", pa.string()), ("line", pa.int64())]

SCHEMAS: Mapping[str, pa.Schema] = {
    "demonstrations": pa.schema([("prompt", pa.string()), ("response", pa.string()), *_WHERE]),
    "preferences": pa.schema(
        [
            ("prompt", pa.string()),
            ("responses", pa.list_(pa.string())),
            ("ranks", pa.list_(pa.int64())),
            ("source", pa.string()),
            ("group", pa.string()),
            ("margin", pa.float64()),
            ("confidence", pa.string()),
            *_WHERE,
        ]
    ),
    "prompts": pa.schema([("prompt", pa.string()), ("reference", pa.string()), *_WHERE]),
    "text": pa.schema([("text", pa.string()), *_WHERE]),
}
"""What each table of a data artifact holds, by its name."""

_GROUP_BYTES = 4 * 2**20
"""Of rows that are held until they become a row group."""

_MAY_LACK = ("margin", "confidence")
"""Columns that hold null where a row does not have them."""

Table = Literal["demonstrations", "preferences", "prompts", "text"]


def read_demonstrations(folder: Path, split: DemonstrationSplit) -> "pd.DataFrame":
    """One row per demonstration: prompt, response, file, line."""
    return _read(folder, "demonstrations", split)


def read_preferences(folder: Path, split: PreferenceSplit) -> "pd.DataFrame":
    """One row per ranking: prompt, responses, ranks, source, group, margin, confidence, file, line.

    Rank 1 is best and equal ranks are ties; a pair is a ranking of two with ranks [1, 2]. The
    margin is None, and the confidence empty, where the row names none.
    """
    return _read(folder, "preferences", split)


def read_prompts(folder: Path, split: PromptSplit) -> "pd.DataFrame":
    """One row per prompt: prompt, reference (a demonstration's response, or None), file, line."""
    return _read(folder, "prompts", split)


def read_text(folder: Path, split: TextSplit) -> "pd.DataFrame":
    """One row per plain text: text, file, line; no rows where the recipe names no text."""
    return _read(folder, "text", split)


def write_table(
    folder: Path, table: Table, split: str, rows: Sequence[Mapping[str, object]]
) -> None:
    """`folder` holds the table's Parquet file for `split`, also when there are no rows."""
    schema = SCHEMAS[table]
    kept = [
        {name: row[name] for name in schema.names if name in row or name not in _MAY_LACK}
        for row in rows
    ]
    with TableWriter(folder, table, split) as writer:
        writer.add(pa.Table.from_pylist(kept, schema=schema))


class TableWriter:
    """Writes one table's Parquet file for one split, batch by batch.

    `folder` holds the file once the writer is closed, also when there were no rows. Tables of up to
    4 MiB have one row group, whatever the batches.
    """

    def __init__(self, folder: Path, table: Table, split: str) -> None:
        self.schema = SCHEMAS[table]
        self._held: list[pa.Table] = []
        self._held_bytes = 0
        self._writer = pq.ParquetWriter(_file(folder, table, split), self.schema)
        self._is_empty = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None and (self._held or self._is_empty):
            self._write()
        self._writer.close()

    def add(self, rows: pa.Table) -> None:
        """The next rows, under the table's schema."""
        if rows.num_rows:
            self._held.append(rows)
            self._held_bytes += rows.nbytes
        if self._held_bytes > _GROUP_BYTES:
            self._write()

    def _write(self) -> None:
        group = pa.concat_tables([self.schema.empty_table(), *self._held])
        self._writer.write_table(group.combine_chunks())
        self._held, self._held_bytes, self._is_empty = [], 0, False


def _read(folder: Path, table: Table, split: str) -> "pd.DataFrame":
    path = _file(folder, table, split)
    try:
        stored = pq.read_table(path)
    except FileNotFoundError:
        raise ArtifactError(
            f"{folder} holds no {path.name}: it is not the artifact of stage 'data', or it is "
            "incomplete. Run stage 'data' again, or pass the folder that it reported."
        ) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(
            f"{path} cannot be read as Parquet ({error}): it is damaged. Run stage 'data' again."
        ) from error
    import pandas as pd

    columns = {
        field.name: pd.Series(
            stored.column(field.name).to_pylist(),
            dtype="int64" if field.type == pa.int64() else object,
        )
        for field in SCHEMAS[table]
    }
    return pd.DataFrame(columns)


def _file(folder: Path, table: Table, split: str) -> Path:
    return folder / f"{table}-{split}.parquet"
