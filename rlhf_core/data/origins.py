"""Where a data file came from, told by a file beside it: `NAME.origin.json`.

`rlhf collect` writes one. It names the policy that wrote the responses, so that the lineage of what
is made from the file goes on through it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_core.folders import pretty_json, sha256_of, write_durably

SUFFIX = ".origin.json"

CHANGED = "changed_since"
"""The key of an origin that is true where the file is not the one that was written."""


def origin_path(file: Path) -> Path:
    """The file that tells where `file` came from."""
    return file.with_name(file.name + SUFFIX)


def write_origin(file: Path, facts: Mapping[str, Any]) -> None:
    """The facts stand beside `file`, with the SHA-256 of its bytes."""
    write_durably(origin_path(file), pretty_json({"sha256": sha256_of(file), **facts}))


def read_origin(file: Path, sha256: str) -> dict[str, Any] | None:
    """What stands beside `file`, or None where nothing does that `write_origin` could have written.

    `sha256` is that of the file now: where it is not the one that was written down, the facts say
    so under `changed_since`.
    """
    try:
        facts = json.loads(origin_path(file).read_text(encoding="utf-8"))
        written = facts.pop("sha256")
        digests = [facts["policy"]["digest"]] if "policy" in facts else list(facts["policies"])
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    if not all(isinstance(digest, str) for digest in digests):
        return None
    changed = {} if written == sha256 else {CHANGED: True}
    return {**facts, "policies": digests, **changed}
