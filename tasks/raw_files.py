"""Where the raw files of a data artifact lie on this machine, if they still do."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_REPEATED = re.compile(r"(?P<name>.+)#(?P<place>[0-9]+)")
"""The second file of equal name in a table is `rows.jsonl#2`."""


def raw_file_path(
    folder: Path, provenance: Mapping[str, Any], source: Mapping[str, Any]
) -> Path | None:
    """The file of one entry of `sources.json`: in the payload, or where the settings name it.

    A relative path counts from the folder in which the stage ran.
    """
    name = str(source["name"])
    if (folder / "raw" / name).is_file():
        return folder / "raw" / name
    found = list(_files_named(name, provenance, source.get("table")))
    if not found and (repeated := _REPEATED.fullmatch(name)):
        same_name = list(_files_named(repeated["name"], provenance, source.get("table")))
        found = same_name[int(repeated["place"]) - 1 :]
    return found[0] if found else None


def recorded_path(provenance: Mapping[str, Any], path: str) -> Path:
    """The path that the settings name, from the folder in which the stage ran."""
    return Path(provenance.get("working_folder") or "") / Path(path).expanduser()


def _files_named(name: str, provenance: Mapping[str, Any], table: str | None) -> Iterator[Path]:
    settings = provenance.get("fingerprint", {}).get("settings", {}).get("data", {})
    given = (settings.get(table) or {}).get("source") or ()
    for place in [given] if isinstance(given, str) else given:
        path = recorded_path(provenance, place)
        if path.is_dir():
            if (path / name).is_file():
                yield path / name
        elif path.name == name and path.is_file():
            yield path
