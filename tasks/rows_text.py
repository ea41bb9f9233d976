"""Row-level lineage as people read it."""

import json

from tasks.pages import SHOWN_DIGEST
from tasks.rows import LineUse, RowOrigin

SHOWN_CHARACTERS = 200


def use_text(use: LineUse) -> str:
    """What became of a raw line."""
    lines = [f"{use.file}:{use.line} in data {use.data[:SHOWN_DIGEST]}"]
    lines += [f"   is row {place.row} of {place.table}" for place in use.places]
    lines += [
        f"   was set aside from {entry['table']}: {', '.join(entry['rules'])}"
        for entry in use.set_aside
    ]
    if use.unused is not None:
        lines.append(f"   is not used: {use.unused}")
    for reader in use.readers:
        did = "was made from it" if reader.trained else "was measured on it"
        lines.append(f"   {reader.stage} {reader.digest[:SHOWN_DIGEST]} {did} ({reader.table})")
    lines += [
        f"   {stage} {digest[:SHOWN_DIGEST]} was made from those"
        for stage, digest in use.descendants
    ]
    if use.places and not use.readers:
        lines.append("   no artifact that is here was made from it")
    return "\n".join(lines)


def origin_text(origin: RowOrigin) -> str:
    """Where a row of a table came from."""
    content = origin.sha256 or "on the hub"
    lines = [
        f"row {origin.place.row} of {origin.place.table} in data {origin.data[:SHOWN_DIGEST]}",
        f"   came from {origin.file}:{origin.line} ({content})",
    ]
    lines += [f"   {name}: {_short(value)}" for name, value in origin.row.items()]
    return "\n".join(lines)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"
