"""The tables of the data artifact: written here, and read by every later stage.

Files are Parquet under a fixed schema, so equal rows give equal bytes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rlhf_core.errors import ArtifactError

DemonstrationSplit = Literal["train", "validation"]
PreferenceSplit = Literal["train", "validation"]
PromptSplit = Literal["train", "evaluation"]
TextSplit = Literal["train", "validation"]

_WHERE = [("file", pa.string()), ("line", pa.int64())]

_SCHEMAS: Mapping[str, pa.Schema] = {
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

_MAY_LACK = ("margin", "confidence")
"""Columns that hold null where a row does not have them."""

Table = Literal["demonstrations", "preferences", "prompts", "text"]


def read_demonstrations(folder: Path, split: DemonstrationSplit) -> pd.DataFrame:
    """One row per demonstration: prompt, response, file, line."""
    return _read(folder, "demonstrations", split)


def read_preferences(folder: Path, split: PreferenceSplit) -> pd.DataFrame:
    """One row per ranking: prompt, responses, ranks, source, group, margin, confidence, file, line.

    Rank 1 is best and equal ranks are ties; a pair is a ranking of two with ranks [1, 2]. The
    margin is None, and the confidence empty, where the row names none.
    """
    return _read(folder, "preferences", split)


def read_prompts(folder: Path, split: PromptSplit) -> pd.DataFrame:
    """One row per prompt: prompt, reference (a demonstration's response, or None), file, line."""
    return _read(folder, "prompts", split)


def read_text(folder: Path, split: TextSplit) -> pd.DataFrame:
    """One row per plain text: text, file, line; no rows where the recipe names no text."""
    return _read(folder, "text", split)


def write_table(
    folder: Path, table: Table, split: str, rows: Sequence[Mapping[str, object]]
) -> None:
    """`folder` holds the table's Parquet file for `split`, also when there are no rows."""
    schema = _SCHEMAS[table]
    kept = [
        {name: row[name] for name in schema.names if name in row or name not in _MAY_LACK}
        for row in rows
    ]
    pq.write_table(pa.Table.from_pylist(kept, schema=schema), _file(folder, table, split))


def _read(folder: Path, table: Table, split: str) -> pd.DataFrame:
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
    columns = {
        field.name: pd.Series(
            stored.column(field.name).to_pylist(),
            dtype="int64" if field.type == pa.int64() else object,
        )
        for field in _SCHEMAS[table]
    }
    return pd.DataFrame(columns)


def _file(folder: Path, table: Table, split: str) -> Path:
    return folder / f"{table}-{split}.parquet"
