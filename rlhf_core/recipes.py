"""One YAML file plus overrides becomes one valid `Recipe`, or an error that names every fault."""

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rlhf_core.data.shown_text import visible
from rlhf_core.errors import RecipeError
from rlhf_core.settings.base import Settings
from rlhf_core.settings.recipe import Recipe
from rlhf_core.strict_yaml import dump_yaml, parse_yaml

MAX_BYTES = 1_000_000

_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a section of key: value lines",
    "float_type": "a number",
    "int_from_float": "a whole number without a decimal point or exponent",
    "int_type": "a whole number without a decimal point or exponent",
    "finite_number": "a finite number",
    "model_type": "a section of key: value lines",
    "string_type": "text",
    "tuple_type": "a list",
}


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in `path` with each `dotted.field=value` applied; all of it is valid."""
    name = visible(path.name)
    document = parse_yaml(_read_text(path), name)
    if not isinstance(document.value, dict):
        raise RecipeError(
            f"{name}: found {_shown(document.value)}, expected a recipe: lines of the form "
            "`name: ...`, `data: ...`, `model: ...`."
        )
    return recipe_of(document.value, overrides, name=name, lines=document.lines)


def recipe_of(
    values: dict[str, Any],
    overrides: Sequence[str] = (),
    *,
    name: str,
    lines: Mapping[str, int],
) -> Recipe:
    """The recipe of these raw values with each override applied to them.

    Errors call the values `name`, and give the line of a field where `lines` has it.
    """
    overridden = [_apply(values, override) for override in overrides]
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        faults = _faults(error, values)
    told = []
    for field, sentence in faults.items():
        if any(field == given or field.startswith(f"{given}.") for given in overridden):
            where = "--set"
        elif field in lines:
            where = f"{name}:{lines[field]}"
        else:
            where = name
        told.append(f"{where}: {field}: {sentence}" if field else f"{where}: {sentence}")
    raise RecipeError("\n".join(told))


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every default written out; `load_recipe` reads it back as equal."""
    return dump_yaml(recipe.model_dump(mode="json"))


def recipe_schema() -> dict[str, Any]:
    """JSON schema of a recipe, for editors."""
    return Recipe.model_json_schema()


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(
            f"{visible(str(path))} cannot be read ({error.strerror}): pass the path of a recipe "
            "file."
        ) from None
    if len(content) > MAX_BYTES:
        raise RecipeError(f"{visible(path.name)} is over {MAX_BYTES} bytes: it is not a recipe.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{visible(path.name)}: byte {error.start} is not UTF-8: save the file as UTF-8."
        ) from None


def _apply(values: dict[str, Any], override: str) -> str:
    """Write one override into `values`; its dotted field is returned."""
    field, equals, text = override.partition("=")
    field = field.strip()
    if not equals or not field:
        raise RecipeError(
            f"--set {override}: expected `field=value`, for example `ppo.kl_coef=0.1`."
        )
    _check_field(field)
    *sections, last = field.split(".")
    target = values
    for section in sections:
        inner = {} if target.get(section) is None else target[section]
        if not isinstance(inner, dict):
            raise RecipeError(
                f"--set {override}: {section} is {_shown(inner)} in the recipe, not a section: "
                f"set all of it, `{section}={{...}}`."
            )
        target[section] = dict(inner)  # a YAML alias may share it with another section
        target = target[section]
    target[last] = parse_yaml(text, f"--set {field}").value
    return field


def _check_field(field: str) -> None:
    section: type[Settings] | None = Recipe
    pieces = field.split(".")
    for depth, piece in enumerate(pieces):
        if section is None:
            raise RecipeError(
                f"--set {field}: {'.'.join(pieces[:depth])} is one value and has no parts."
            )
        if piece not in section.model_fields:
            hint = _nearest(piece, section, ".".join(pieces[:depth]))
            raise RecipeError(f"--set {field}: there is no field {piece!r}; {hint}")
        annotation = section.model_fields[piece].annotation
        if get_origin(annotation) is dict:
            return
        section = _section(annotation)


def _faults(error: ValidationError, values: Mapping[str, Any]) -> dict[str, str]:
    """One sentence per faulty field; the alternatives of a union are joined by `or`."""
    found: dict[str, list[str]] = {}
    details_of: dict[str, ErrorDetails] = {}
    for details in error.errors(include_url=False):
        field = _dotted(details["loc"], values)
        details_of.setdefault(field, details)
        expected = _expected(details)
        if expected not in found.setdefault(field, []):
            found[field].append(expected)
    return {
        field: _sentence(details_of[field], field, " or ".join(expected))
        for field, expected in found.items()
    }


def _sentence(details: ErrorDetails, field: str, expected: str) -> str:
    parent, _, name = field.rpartition(".")
    if details["type"] == "extra_forbidden":
        section = _section_at(parent)
        hint = "remove it." if section is None else _nearest(name, section, parent)
        return f"found an unknown key; {hint}"
    if details["type"] == "missing":
        return "is missing; add it."
    if details["type"] == "value_error":
        return str(details["ctx"]["error"]) if "ctx" in details else details["msg"]
    return f"found {_shown(details['input'])}, expected {expected}."


def _expected(details: ErrorDetails) -> str:
    if details["type"] in _EXPECTED:
        return _EXPECTED[details["type"]]
    return details["msg"].removeprefix("Input should be ").removeprefix("Value error, ")


def _dotted(location: Sequence[int | str], values: Any) -> str:
    """The field as the user wrote it, without the names that pydantic gives a union's members."""
    pieces = []
    for place, piece in enumerate(location):
        if isinstance(values, Mapping):
            if piece not in values and place < len(location) - 1:
                continue
            pieces.append(str(piece))
            values = values.get(piece)
        elif isinstance(values, list) and isinstance(piece, int) and piece < len(values):
            pieces.append(str(piece))
            values = values[piece]
    return ".".join(pieces)


def _nearest(key: str, section: type[Settings], path: str) -> str:
    near = difflib.get_close_matches(key, section.model_fields, n=1)
    if near:
        return f"the nearest right one is {near[0]!r}."
    elsewhere = [field for field in _all_fields(Recipe) if field.rpartition(".")[2] == key]
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere)}?"
    where = f"section {path!r}" if path else "a recipe"
    return f"{where} knows {', '.join(section.model_fields)}."


def _section_at(path: str) -> type[Settings] | None:
    section: type[Settings] | None = Recipe
    for piece in path.split(".") if path else ():
        if section is None or piece not in section.model_fields:
            return None
        section = _section(section.model_fields[piece].annotation)
    return section


def _section(annotation: Any) -> type[Settings] | None:
    members = get_args(annotation) if _is_union(annotation) else (annotation,)
    for member in members:
        if isinstance(member, type) and issubclass(member, Settings):
            return member
    return None


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _all_fields(section: type[Settings], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        inner = _section(field.annotation)
        if inner is not None:
            yield from _all_fields(inner, f"{prefix}{name}.")


def _shown(value: object) -> str:
    """What was found, in the words of YAML and cut to one line."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a section of key: value lines"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        shown = ascii(value) if len(value) <= 60 else ascii(value[:57] + "...")
        return f"the text {shown}"
    return repr(value)
