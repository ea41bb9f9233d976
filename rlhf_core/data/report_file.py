"""`report.json`: facts first, then every fault on a line of its own, so that none need be held."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

REPORT = "report.json"
REPORT_FILES = (REPORT, "report.html", "set-aside.jsonl", "sources.json")
"""What the data stage says of the rows, beside the tables of those that are usable."""

_FAULTS = ' "faults": ['


def write_report(
    path: Path, facts: Mapping[str, Any], faults: Iterable[Mapping[str, object]]
) -> None:
    """The file is one JSON object: the facts, and the list `faults` at its end."""
    opening = json.dumps(dict(facts), indent=1).removesuffix("\n}")
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f"{opening},\n{_FAULTS}" if facts else f"{{\n{_FAULTS}")
        comma = ""
        for fault in faults:
            file.write(f"{comma}\n  {json.dumps(fault)}")
            comma = ","
        file.write("\n ]\n}\n")


def read_facts(path: Path) -> dict[str, Any]:
    """What `write_report` was given beside the faults."""
    lines = []
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            if line.startswith(_FAULTS):
                break
            lines.append(line)
    facts: dict[str, Any] = json.loads("".join(lines).rstrip().removesuffix(",") + "}")
    return facts


def read_faults(path: Path) -> Iterator[dict[str, Any]]:
    """The faults one by one, as `write_report` took them."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            if line.startswith(_FAULTS):
                break
        for line in file:
            if line.startswith("  "):
                yield json.loads(line.rstrip().removesuffix(","))
