"""The hash of everything that decides a stage's result, and the parts it is made of."""

import ast
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import version
from pathlib import Path
from typing import Any

import rlhf_core
from rlhf_core.artifacts import digest, sha256_of
from rlhf_core.data.origins import SUFFIX as ORIGIN
from rlhf_core.data.origins import origin_path
from rlhf_core.settings.base import Stage
from rlhf_core.settings.data import TableSettings
from rlhf_core.settings.recipe import Recipe

SCHEMA = 2
"""Version of what is hashed; a new one makes every fingerprint new."""

PACKAGE = rlhf_core.__name__
PACKAGE_FOLDER = Path(rlhf_core.__file__).parent
DECIDING_LIBRARIES = ("torch", "transformers")


@dataclass(frozen=True)
class Fingerprint:
    """A stage's fingerprint with its parts, so that two of them can be compared part by part."""

    digest: str
    settings: dict[str, dict[str, Any]]
    """The recipe's sections that the stage reads."""

    seed: int
    inputs: dict[str, str]
    """Role to artifact digest, for the data artifact the digest of each table that is read; local
    files that the settings name, by path."""

    code: dict[str, str]
    """Module to the hash of its syntax tree, docstrings and comments aside."""

    libraries: dict[str, str]

    continued: dict[str, Any] | None = None
    """Where training went on from a checkpoint of other settings: whose, after which step, and what
    was changed. A result with such a past is never that of its settings alone."""

    def parts(self) -> dict[str, Any]:
        """Everything but the digest, and the past where there is none."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name != "digest" and not (name == "continued" and value is None)
        }

    def record(self) -> dict[str, Any]:
        """The digest and the parts, as they are written down."""
        return {"digest": self.digest, **self.parts()}


def with_past(fingerprint: Fingerprint, stage: Stage, continued: dict[str, Any]) -> Fingerprint:
    """The fingerprint of what goes on from the checkpoint of another one."""
    parts = fingerprint.parts() | {"continued": continued}
    return Fingerprint(digest({"schema": SCHEMA, "stage": stage, **parts}), **parts)


def stage_fingerprint(recipe: Recipe, stage: Stage, inputs: Mapping[str, str]) -> Fingerprint:
    """What decides the result of `stage`: its settings, seed, inputs, code and libraries.

    Where it runs is none of that: device, threads, tracking address, store, checkpoints.
    """
    homes, roots = {PACKAGE: PACKAGE_FOLDER}, [f"{PACKAGE}.stages.{stage}"]
    for function in functions_named(recipe, stage):
        module = function.partition(":")[0]
        homes |= source_home(module)
        roots.append(module)
    settings = {
        section: getattr(recipe, section).model_dump(mode="json") for section in (stage, "model")
    }
    parts: dict[str, Any] = {
        "settings": settings,
        "seed": recipe.seed,
        "inputs": {**inputs, **_local_sources(recipe, stage)},
        "code": code_digests(tuple(homes.items()), tuple(roots)),
        "libraries": {name: version(name) for name in DECIDING_LIBRARIES},
    }
    return Fingerprint(digest({"schema": SCHEMA, "stage": stage, **parts}), **parts)


def functions_named(recipe: Recipe, stage: Stage) -> list[str]:
    """The functions, as `module:function`, that the recipe names and the stage calls."""
    collect = recipe.reward_model.collect
    if stage == "reward_model" and collect is not None:
        return [] if collect.labeler is None else [collect.labeler]
    rewards = [reward.source for reward in recipe.ppo.scoring.functions]
    if stage == "ppo":
        return rewards
    if stage == "evaluation":  # which reads responses as PPO was paid for them
        return [*rewards, *([recipe.evaluation.gold] if recipe.evaluation.gold else [])]
    return []


def code_of_function(name: str) -> str:
    """The digest of the code behind `module:function`: its module's, and what that imports."""
    module = name.partition(":")[0]
    homes = {PACKAGE: PACKAGE_FOLDER} | source_home(module)
    return digest(code_digests(tuple(homes.items()), (module,)))


def source_home(module: str) -> dict[str, Path]:
    """Where the source of the module's outermost package lies; nothing is imported.

    Empty where it is not found, or is a module of the interpreter or an extension in binary form.
    """
    outermost = module.partition(".")[0]
    spec = PathFinder.find_spec(outermost)
    if spec is None:
        return {}
    if spec.submodule_search_locations:
        return {outermost: Path(next(iter(spec.submodule_search_locations)))}
    return {outermost: Path(spec.origin)} if spec.origin else {}


@cache
def code_digests(homes: tuple[tuple[str, Path], ...], roots: tuple[str, ...]) -> dict[str, str]:
    """Syntax-tree hashes of the modules that the roots import from the homes, transitively.

    A home is the folder or file of an outermost package or module, by name. Imports inside
    functions count. Modules elsewhere, and those that do not exist, are passed over; the source
    files are read, nothing is imported.
    """
    folders = dict(homes)
    digests: dict[str, str] = {}
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        path = _source_file(folders, module)
        if module in digests or path is None:
            continue
        if path.suffix != ".py":
            digests[module] = sha256_of(path)
            continue
        tree = ast.parse(path.read_bytes())
        _drop_docstrings(tree)
        digests[module] = digest(ast.dump(tree))
        waiting += _imported(tree, _package_of(module, path))
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
        data = recipe.data
        tables = (data.demonstrations, data.preferences, data.prompts, data.text)
        names += [name for table in tables if table is not None for name in _sources(table)]
    if stage in ("data", "sft") and recipe.model.base is not None:
        names.append(recipe.model.base)
    if stage == "reward_model" and recipe.reward_model.pretrained is not None:
        names.append(recipe.reward_model.pretrained.source)
    names += [f"{name}{ORIGIN}" for name in names if origin_path(Path(name)).is_file()]
    return {f"file:{name}": content_digest(Path(name)) for name in names if Path(name).exists()}


def _sources(table: TableSettings) -> tuple[str, ...]:
    return (table.source,) if isinstance(table.source, str) else table.source


def _source_file(homes: Mapping[str, Path], module: str) -> Path | None:
    top, _, rest = module.partition(".")
    home = homes.get(top)
    if home is None:
        return None
    if home.is_file():
        return None if rest else home
    place = home.joinpath(*rest.split(".")) if rest else home
    candidates = (place / "__init__.py", place.with_suffix(".py"))
    return next((path for path in candidates if path.is_file()), None)


def _package_of(module: str, path: Path) -> str:
    return module if path.name == "__init__.py" else module.rpartition(".")[0]


def _imported(tree: ast.AST, package: str) -> list[str]:
    """The modules that are imported in the tree; relative ones are seen from `package`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                above = package.split(".")[: 1 - node.level or None]
                module = ".".join([*above, module] if module else above)
            found.append(module)
            found += [f"{module}.{alias.name}" for alias in node.names]
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
