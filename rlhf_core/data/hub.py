"""Sources by name: local files, folders in the hub's layout, and data sets on the hub.

`datasets` is imported only where a folder or a hub id is read.
"""

import re
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_core.data.faults import Fault, render_faults
from rlhf_core.data.shown_text import visible
from rlhf_core.data.sources import DATA_SUFFIXES, LocalFile, RawRow, local_file, read_file
from rlhf_core.errors import DataError
from rlhf_core.settings.data import TableSettings

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+|[\w-]+")


class HubData(NamedTuple):
    """One split of a data set on the hub; `commit` is None when the hub could not be asked."""

    name: str
    subset: str | None
    split: str
    commit: str | None


Source = LocalFile | HubData


def find_sources(settings: TableSettings, table: str) -> list[Source]:
    """The files or hub data that the settings name, hashed or resolved to a commit; not yet read.

    `table` is the section of the recipe that errors speak of.
    """
    named = [settings.source] if isinstance(settings.source, str) else list(settings.source)
    return [source for name in named for source in _find(name, settings, table)]


def read_rows(source: Source, settings: TableSettings, table: str) -> Iterator[RawRow | Fault]:
    """Each row of the source in order; `settings.limit` is left to the caller."""
    if isinstance(source, LocalFile):
        return read_file(source)
    return _hub_rows(source, settings, table)


def _find(name: str, settings: TableSettings, table: str) -> list[Source]:
    path = Path(name).expanduser()
    if path.is_dir():
        return _files_of_folder(path, settings, table)
    if path.is_file():
        return [local_file(path, path.name)]
    if path.exists():
        raise DataError(
            f"data.{table}.source: {name} is neither a file nor a folder (rule DATA-002): "
            "write its content into a file and name that."
        )
    if name.endswith(DATA_SUFFIXES) or not _HUB_ID.fullmatch(name):
        seen = f"there is no such file or folder, and data.{table}.source names it"
        raise DataError(
            f"{render_faults([Fault('DATA-005', name, 1, '', seen)])}\nPass a file, a folder or a "
            f"hub id, for example `--set data.{table}.source=PATH`."
        )
    commit = _commit(name, settings.revision)
    return [HubData(name, settings.subset, settings.split, commit)]


def _files_of_folder(folder: Path, settings: TableSettings, table: str) -> list[Source]:
    """The data files that `datasets` would take for the split; our own reader names their lines."""
    import datasets

    try:
        builder = datasets.load_dataset_builder(
            str(folder), **_subset_arguments(str(folder), settings.subset, None)
        )
        files = builder.config.data_files or {}
    except Exception as error:
        raise DataError(
            f"data.{table}.source: the folder {folder} cannot be used (rule DATA-001: "
            f"{_short(error)}): it must hold JSONL or Parquet files, as a data set on the hub does."
        ) from error
    if settings.split not in files:
        raise DataError(
            f"data.{table}.split: {folder} has no split {settings.split!r}, but "
            f"{', '.join(map(str, files)) or 'none at all'}. Name one of them: "
            f"`--set data.{table}.split=NAME`."
        )
    paths = [Path(path) for path in files[settings.split]]
    return [local_file(path, _name_within(folder, path)) for path in paths]


def _name_within(folder: Path, path: Path) -> str:
    root = folder.resolve()
    resolved = path.resolve()
    return resolved.relative_to(root).as_posix() if resolved.is_relative_to(root) else path.name


def _hub_rows(source: HubData, settings: TableSettings, table: str) -> Iterator[RawRow]:
    import datasets

    reachable = source.commit is not None
    try:
        rows = datasets.load_dataset(
            source.name,
            split=source.split,
            revision=source.commit or settings.revision,
            streaming=reachable and settings.limit is not None,
            download_config=datasets.DownloadConfig(local_files_only=not reachable),
            **_subset_arguments(source.name, source.subset, source.commit),
        )
        first = list(islice(rows, 1))
    except Exception as error:
        raise DataError(_unreachable(source, table, error)) from error
    number = 0
    try:
        for number, fields in enumerate(chain(first, islice(rows, 1, None)), start=1):
            yield RawRow(source.name, number, fields)
    except Exception as error:
        raise DataError(
            f"{source.name}:{number + 1}: the row could not be had from the hub or its cache (rule "
            f"DATA-003: {_short(error)}). Try again, or pass a local copy: "
            f"`--set data.{table}.source=PATH`."
        ) from error


def _unreachable(source: HubData, table: str, error: Exception) -> str:
    found = (
        "is not in the local cache, and the hub could not be reached"
        if source.commit is None
        else "could not be loaded from the hub"
    )
    return (
        f"data.{table}.source: the data set {source.name} (split {source.split}) {found} "
        f"({_short(error)}). Pass a local file or folder: `--set data.{table}.source=PATH`."
    )


def _subset_arguments(name: str, subset: str | None, commit: str | None) -> dict[str, Any]:
    """A subset is a configuration where the data set names one so, and otherwise a folder."""
    if subset is None:
        return {}
    import datasets

    known = datasets.get_dataset_config_names(name, revision=commit)
    return {"name": subset} if subset in known else {"data_dir": subset}


def _commit(name: str, revision: str | None) -> str | None:
    """The commit that the hub has for the revision; None without a connection."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return huggingface_hub.HfApi().dataset_info(name, revision=revision, timeout=10).sha
    except errors.HfHubHTTPError as error:
        raise DataError(
            f"The hub has no data set {name} that can be read here ({_short(error)}): check the "
            "name and the revision, or accept its conditions on its page."
        ) from error
    except (errors.HTTPError, OSError):  # type: ignore[attr-defined]  # of its own HTTP library
        return None


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {visible(' '.join(str(error).split())[:200])}"
