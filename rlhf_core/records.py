"""Records that lie beside what they tell of: JSON that carries the hash of its own content.

No file name and no manifest vouches for them, so they vouch for themselves. A record without a seal
was written before there were seals, and is taken as it is.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_core.folders import digest, pretty_json, write_durably

SEAL = "record_sha256"
"""Name under which a record holds the SHA-256 of the canonical JSON of all else in it."""


def sealed_json(record: Mapping[str, Any]) -> bytes:
    """The record for people to read, with its seal."""
    return pretty_json({**record, SEAL: digest(record)})


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """The file holds the record with its seal, whole; true after a power cut too."""
    write_durably(path, sealed_json(record))


def read_record(path: Path) -> dict[str, Any]:
    """The record without its seal; ValueError where it is damaged, OSError where it is gone."""
    text = path.read_text(encoding="utf-8")
    try:
        record = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested deeper than any record") from None
    if not isinstance(record, dict):
        raise ValueError("it holds no JSON object")
    expected = record.pop(SEAL, None)
    found = None if expected is None else digest(record)
    if expected != found:
        raise ValueError(f"its content has SHA-256 {found}, its seal says {expected}")
    return record


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
