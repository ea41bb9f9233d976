"""The hash of everything that decides a stage's result, and the parts it is made of."""

import ast
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import rlhf_core
from rlhf_core.artifacts import digest, sha256_of
from rlhf_core.settings.base import Stage
from rlhf_core.settings.data import TableSettings
from rlhf_core.settings.recipe import Recipe

SCHEMA = 1
"""Version of what is hashed; a new one makes every fingerprint new."""

PACKAGE = rlhf_core.__name__
DECIDING_LIBRARIES = ("torch", "transformers")


@dataclass(frozen=True)
class Fingerprint:
    """A stage's fingerprint with its parts, so that two of them can be compared part by part."""

    digest: str
    settings: dict[str, dict[str, Any]]
    """The recipe's sections that the stage reads."""

    seed: int
    inputs: dict[str, str]
    """Role to artifact digest; local files that the settings name, by path."""

    code: dict[str, str]
    """Module to the hash of its syntax tree, docstrings and comments aside."""

    libraries: dict[str, str]

    def parts(self) -> dict[str, Any]:
        """Everything but the digest."""
        return {name: value for name, value in asdict(self).items() if name != "digest"}


def stage_fingerprint(recipe: Recipe, stage: Stage, inputs: Mapping[str, str]) -> Fingerprint:
    """What decides the result of `stage`: its settings, seed, inputs, code and libraries."""
    roots = [f"{PACKAGE}.stages.{stage}"]
    if stage == "evaluation" and recipe.evaluation.gold:
        roots.append(recipe.evaluation.gold.partition(":")[0])
    settings = {
        section: getattr(recipe, section).model_dump(mode="json") for section in (stage, "model")
    }
    parts: dict[str, Any] = {
        "settings": settings,
        "seed": recipe.seed,
        "inputs": {**inputs, **_local_sources(recipe, stage)},
        "code": code_digests(Path(rlhf_core.__file__).parent, tuple(roots)),
        "libraries": {name: version(name) for name in DECIDING_LIBRARIES},
    }
    return Fingerprint(digest({"schema": SCHEMA, "stage": stage, **parts}), **parts)


@cache
def code_digests(package: Path, roots: tuple[str, ...]) -> dict[str, str]:
    """Syntax-tree hashes of the modules of `package` that the roots import, transitively.

    Imports inside functions count. Modules outside the package, and those that do not exist, are
    passed over; the source files are read, nothing is imported.
    """
    digests: dict[str, str] = {}
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        path = _source_file(package, module)
        if module in digests or path is None:
            continue
        tree = ast.parse(path.read_bytes())
        _drop_docstrings(tree)
        digests[module] = digest(ast.dump(tree))
        waiting += _imported(tree)
        waiting += [module.rpartition(".")[0]]  # importing a module runs its package too
    return dict(sorted(digests.items()))


def content_digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and hashes of all files below a folder."""
    if path.is_file():
        return sha256_of(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return digest({file.relative_to(path).as_posix(): sha256_of(file) for file in files})


def _local_sources(recipe: Recipe, stage: Stage) -> dict[str, str]:
    """Contents of the files and folders outside the store that the stage reads."""
    names: list[str] = []
    if stage == "data":
        tables = (recipe.data.demonstrations, recipe.data.preferences, recipe.data.prompts)
        names += [name for table in tables if table is not None for name in _sources(table)]
    if stage in ("data", "sft") and recipe.model.base is not None:
        names.append(recipe.model.base)
    return {f"file:{name}": content_digest(Path(name)) for name in names if Path(name).exists()}


def _sources(table: TableSettings) -> tuple[str, ...]:
    return (table.source,) if isinstance(table.source, str) else table.source


def _source_file(package: Path, module: str) -> Path | None:
    top, _, rest = module.partition(".")
    if top != package.name:
        return None
    place = package.joinpath(*rest.split(".")) if rest else package
    candidates = (place / "__init__.py", place.with_suffix(".py"))
    return next((path for path in candidates if path.is_file()), None)


def _imported(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.append(node.module)
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def _drop_docstrings(tree: ast.AST) -> None:
    """Remove docstrings, and strings that describe fields, from the tree in place."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [line for line in node.body if not _is_bare_string(line)]


def _is_bare_string(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
