"""The tables and raw files that a stage reads, described by content for the tracking pages."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_core.artifacts import Artifact
from rlhf_core.settings.base import Stage
from rlhf_core.settings.recipe import Recipe

SOURCES = "sources.json"

TABLES_USED: dict[Stage, tuple[str, ...]] = {
    "sft": ("demonstrations-train", "demonstrations-validation"),
    "reward_model": ("preferences-train", "preferences-validation", "demonstrations-train"),
    "ppo": ("prompts-train", "text-train"),
    "evaluation": ("prompts-evaluation", "text-validation"),
}
"""Tables of the data artifact that each later stage reads."""

PREFERENCES = ("preferences-train", "preferences-validation")
"""Tables that the `ppo` stage reads too where its algorithm learns from them."""

CORPUS = ("demonstrations-train", "preferences-train", "prompts-train", "text-train")
"""Tables whose words become the tokenizer of a model that is made from nothing."""


@dataclass(frozen=True)
class Dataset:
    """One table or raw file, known by the SHA-256 of its bytes."""

    name: str
    sha256: str
    context: str
    """What it was used for: train, validation, evaluation, or raw."""

    uri: str
    rows: int | None
    bytes: int | None
    columns: tuple[tuple[str, str], ...]
    """Name and type of each column."""


PRETRAINING = ("text-train",)
"""What the `sft` stage reads too where plain text is mixed in."""

EPOCH_PROMPTS = ("demonstrations-validation",)
"""What the `ppo` stage reads too where it chooses an epoch of SFT by its samples' scores."""

COLLECTING = ("prompts-train", "demonstrations-train")
"""What the reward model reads where it collects its rankings from the SFT policy."""


def tables_read(recipe: Recipe, stage: Stage) -> tuple[str, ...]:
    """Tables of the data artifact that `stage` reads: another one may change under it."""
    used = TABLES_USED.get(stage, ())
    corpus = CORPUS if stage == "sft" and recipe.model.scratch is not None else ()
    if stage == "reward_model" and recipe.reward_model.collect is not None:
        used = COLLECTING
    if stage == "ppo" and recipe.ppo.ptx is None:
        used = tuple(table for table in used if table != "text-train")
    preferences = PREFERENCES if stage == "ppo" and recipe.ppo.algorithm == "dpo" else ()
    text = PRETRAINING if stage == "sft" and recipe.sft.pretraining_share else ()
    chooses = stage == "ppo" and recipe.sft.selection == "reward_model_score"
    prompts = EPOCH_PROMPTS if chooses else ()
    return tuple(dict.fromkeys([*used, *corpus, *preferences, *prompts, *text]))


def tables_of(data: Artifact, names: Sequence[str] | None) -> list[Dataset]:
    """The named tables of a data artifact, or all of them; those that the recipe has."""
    found = []
    for file in data.files:
        name = file.path.removesuffix(".parquet")
        if name == file.path or (names is not None and name not in names):
            continue
        rows, columns = _parquet_shape(data.path / file.path)
        found.append(
            Dataset(
                name=name,
                sha256=file.sha256,
                context=name.rpartition("-")[2],
                uri=f"cas://sha256/{data.digest}/{file.path}",
                rows=rows,
                bytes=file.size,
                columns=columns,
            )
        )
    return found


def raw_files_of(data: Artifact) -> list[Dataset]:
    """The raw files that a data artifact was made from."""
    return [
        Dataset(
            name=str(source["name"]),
            sha256=str(source["sha256"]),
            context="raw",
            uri=f"cas://sha256/{source['sha256']}",
            rows=source.get("rows"),
            bytes=source.get("bytes"),
            columns=(),
        )
        for source in read_sources(data.path)
    ]


def read_sources(folder: Path) -> list[dict[str, Any]]:
    """The raw files as the data stage wrote them down; none where the stage was another.

    OSError or ValueError where the list is damaged.
    """
    path = folder / SOURCES
    if not path.exists():
        return []
    sources: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    try:
        if all(source["name"] and (source.get("hub") or source["sha256"]) for source in sources):
            return sources
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    raise ValueError("a raw file has no name or no hash")


def _parquet_shape(path: Path) -> tuple[int, tuple[tuple[str, str], ...]]:
    import pyarrow.parquet as parquet

    metadata = parquet.read_metadata(path)
    schema = metadata.schema.to_arrow_schema()
    return metadata.num_rows, tuple((field.name, str(field.type)) for field in schema)
