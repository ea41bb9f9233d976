"""docs/details.md says nothing that is not there: its settings, defaults, functions and tests."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import yaml
from pydantic_core import PydanticUndefined

from rlhf_core.settings.base import Settings
from rlhf_core.settings.recipe import Recipe

ROOT = Path(__file__).parents[1]

NUMBERED = [
    *(f"S{number}" for number in range(1, 10)),
    *(f"R{number}" for number in range(1, 13)),
    *(f"P{number}" for number in range(1, 31)),
]


class Detail(NamedTuple):
    name: str
    settings: dict[str, str]
    functions: list[str]
    tests: list[str]


def details() -> list[Detail]:
    rows = []
    for line in (ROOT / "docs" / "details.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]
        if not line.startswith("| ") or cells[0] in ("detail", "---"):
            continue
        assert len(cells) == 5, f"{line[:60]}: 5 cells are needed"
        name, _, settings, functions, tests = cells
        rows.append(
            Detail(
                name,
                dict(re.findall(r"`([\w.]+)` = `([^`]+)`", settings)),
                re.findall(r"`([^`]+)`", functions),
                re.findall(r"`([^`]+)`", tests),
            )
        )
    return rows


@cache
def defined_in(path: Path) -> frozenset[str]:
    """The functions, classes and constants of a module."""
    names: set[str] = set()
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return frozenset(names)


def is_defined(place: str, below: str) -> bool:
    file, _, name = place.partition("::")
    path = ROOT / below / file
    return path.is_file() and name in defined_in(path)


def default_of(field: str) -> Any:
    """The default of a recipe's field; of a section that is not given, as if it were."""
    section: type[Settings] = Recipe
    *above, last = field.split(".")
    for name in above:
        annotation = section.model_fields[name].annotation
        kinds = [annotation, *get_args(annotation)]
        section = next(k for k in kinds if isinstance(k, type) and issubclass(k, Settings))
    return section.model_fields[last].get_default(call_default_factory=True, validated_data={})


ROWS = details()


def test_every_numbered_detail_has_one_row():
    numbered = [row.name for row in ROWS if re.fullmatch(r"[SRP]\d+", row.name)]
    assert sorted(numbered) == sorted(NUMBERED)
    assert len({row.name for row in ROWS}) >= len(ROWS) - 1  # "loss reduction" stands twice


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_a_row_names_is_there(row: Detail):
    assert row.functions, "names no function"
    assert row.tests, "names no test"
    assert [place for place in row.functions if not is_defined(place, "rlhf_core")] == []
    assert [place for place in row.tests if not is_defined(place, "tests")] == []
    for field, default in row.settings.items():
        found = default_of(field)
        assert found is not PydanticUndefined, f"{field} has no default"
        assert found == yaml.safe_load(default) or str(found) == default, f"{field} is {found!r}"
