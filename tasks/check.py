"""The gate by itself: what the rows of a recipe or of files are worth, before anything is trained.

Torch stays unloaded, and nothing is kept but the report where it is asked for or needed.
"""

import re
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from rlhf_core.data.faults import Fault
from rlhf_core.data.loose_files import loose_files
from rlhf_core.data.report_file import REPORT, REPORT_FILES, read_facts, read_faults
from rlhf_core.data.schemas import TableName
from rlhf_core.data.shown_text import visible
from rlhf_core.data.totals import first_faults
from rlhf_core.errors import DataError, RecipeError, StorageError
from rlhf_core.recipes import recipe_of
from rlhf_core.report import ignore
from rlhf_core.settings.data import DataSettings
from rlhf_core.settings.recipe import Recipe
from rlhf_core.stages.data import examine_data, rehearse_data

_ANY_LENGTH = 2**31 - 1
"""Tokens: a file alone has no budget that its texts could exceed."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What the gate says of some data."""

    metrics: Mapping[str, float]
    report: Path
    """All of it, as report.json."""

    facts: Mapping[str, Any]
    """What the report says beside the faults."""

    faults: Sequence[Fault]
    """The first of each rule."""

    folder: Path | None
    """Where the report is kept, if it is."""

    refusal: DataError | None
    """Why the data cannot be used; None where it can."""

    places: Sequence[str] = ()
    """Which file is meant by each name that several have, a line each."""


@contextmanager
def check_recipe(recipe: Recipe, keep: Path | None) -> Iterator[Checked]:
    """The data stage of the recipe, its report kept in the folder `keep` if one is given.

    Where rows are refused it is kept in any case, in a folder for temporary files.
    """

    def make(out_dir: Path) -> Mapping[str, float]:
        return rehearse_data(
            recipe.data, recipe.model, out_dir=out_dir, report=ignore, seed=recipe.seed
        )

    with _checked(make, keep) as checked:
        yield checked


@contextmanager
def check_files(recipe: Recipe, keep: Path | None) -> Iterator[Checked]:
    """The rows of files by themselves, which are not split; the rest as in `check_recipe`."""

    def make(out_dir: Path) -> Mapping[str, float]:
        examine_data(recipe.data, recipe.model, out_dir=out_dir, report=ignore, seed=recipe.seed)
        return {}

    places = _places(recipe.data)
    with _checked(make, keep) as checked:
        refusal = checked.refusal
        if refusal is not None and places:
            refusal = DataError("\n".join([str(refusal), *places]))
        yield replace(checked, refusal=refusal, places=places)


def recipe_of_files(
    paths: Sequence[Path],
    table: TableName | None,
    columns: Mapping[str, str],
    overrides: Sequence[str],
) -> Recipe:
    """A recipe that ends at the data stage, with the files as its tables."""
    tables: dict[str, dict[str, Any]] = {}
    for path, named in loose_files(paths, table, columns):
        told = tables.setdefault(named, {"source": [], "columns": dict(columns)})
        told["source"].append(str(path))
    _check_tables_meant(overrides, tables)
    values: dict[str, Any] = {
        "name": "files",
        "last_stage": "data",
        "data": tables,
        "model": {"max_prompt_tokens": _ANY_LENGTH, "max_response_tokens": _ANY_LENGTH},
    }
    if not any(override.startswith("model.base") for override in overrides):
        values["model"]["scratch"] = {}
    return recipe_of(values, overrides, name="the files", lines={})


def _places(settings: DataSettings) -> list[str]:
    """For files that share their name: what each is called in messages, and where it lies."""
    given = {
        table: [Path(source) for source in sources]
        for table in ("demonstrations", "preferences", "prompts", "text")
        if (named := getattr(settings, table)) is not None
        for sources in [[named.source] if isinstance(named.source, str) else named.source]
    }
    counts = Counter(path.name for paths in given.values() for path in paths)
    places = []
    for table, paths in given.items():
        seen: Counter[str] = Counter()
        for path in paths:
            seen[path.name] += 1
            mark = f"#{seen[path.name]}" if seen[path.name] > 1 else ""
            if counts[path.name] > 1:
                name, place = visible(path.name + mark), visible(str(path))
                places.append(f"{name} of {table} is {place}")
    return places


def _check_tables_meant(overrides: Sequence[str], told: Collection[str]) -> None:
    """Raise where an override is about a table that none of the files is."""
    for override in overrides:
        named = re.match(r"\s*data\.(demonstrations|preferences|prompts|text)\b", override)
        if named and named[1] not in told:
            raise RecipeError(
                f"--set {override}: by their columns the files are {', '.join(told)}, not "
                f"{named[1]}. Say it if they are: `--table {named[1]}`."
            )


@contextmanager
def _checked(make: Callable[[Path], Mapping[str, float]], keep: Path | None) -> Iterator[Checked]:
    with _temporary_folder(keep) as out_dir:
        metrics: Mapping[str, float] = {}
        refusal: DataError | None = None
        try:
            metrics = make(out_dir)
        except DataError as error:
            if not (out_dir / REPORT).exists():
                raise
            refusal = error
        folder = keep
        if refusal is not None:
            folder = keep or _own_folder(None)
            refusal = DataError(str(refusal).replace(str(out_dir), str(folder)))
        if folder is not None:
            _move_report(out_dir, folder)
        report = (folder or out_dir) / REPORT
        faults = first_faults(read_faults(report))
        yield Checked(metrics, report, read_facts(report), faults, folder, refusal)


@contextmanager
def _temporary_folder(keep: Path | None) -> Iterator[Path]:
    """A folder for what the stage writes; beside the report where that is kept, then gone."""
    folder = _own_folder(keep)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _own_folder(within: Path | None) -> Path:
    try:
        if within is not None:
            within.mkdir(parents=True, exist_ok=True)
        return Path(mkdtemp(prefix="rlhf-check-", dir=within))
    except OSError as error:
        place = error.filename or within
        raise StorageError(
            f"No report can be written below {place} ({error.strerror}): pass another folder, "
            "`--report FOLDER`, or set TMPDIR to one with room."
        ) from None


def _move_report(out_dir: Path, folder: Path) -> None:
    for name in REPORT_FILES:
        if (out_dir / name).exists():
            shutil.move(out_dir / name, folder / name)
