"""YAML as people mean it: `1e-5` is a number, `no` is text, and nothing is silently dropped.

Scalars follow the core schema of YAML 1.2. Duplicate keys, tags, several documents, deep nesting
and aliases that multiply are refused by name.
"""

import re
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import yaml

from rlhf_core.errors import RecipeError

MAX_ALIASES = 100
MAX_DEPTH = 50
MAX_VALUES = 10_000
"""Of one document, after every alias is expanded."""

_SCALARS: Mapping[str, tuple[re.Pattern[str], str]] = {
    "null": (re.compile(r"^(?:~|null|Null|NULL|)$"), "~nN\0"),
    "bool": (re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    "int": (re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"), "-+0123456789"),
    "float": (
        re.compile(
            r"^[-+]?(?:(?:\.[0-9]+|(?:0|[1-9][0-9_]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
            r"|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
        ),
        "-+.0123456789",
    ),
}


class Document(NamedTuple):
    """A parsed document, and the line on which each dotted field stands."""

    value: Any
    lines: Mapping[str, int]


class _Loader(yaml.SafeLoader):
    """Scalars by the core schema; keys are text and stand once."""

    def construct_mapping(
        self,
        node: yaml.MappingNode,
        deep: bool = False,  # noqa: FBT001 - the signature of yaml
    ) -> dict[Hashable, Any]:
        first_line: dict[str, int] = {}
        for key_node, _ in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if key_node.tag != "tag:yaml.org,2002:str":
                raise yaml.MarkedYAMLError(
                    problem=f"the key {str(key)[:40]!r} is not text: put it in quotes",
                    problem_mark=key_node.start_mark,
                )
            if key in first_line:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} stands here and on line {first_line[key]}: keep one",
                    problem_mark=key_node.start_mark,
                )
            first_line[key] = line
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes exactly the text that `_Loader` would take for something else."""


for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {}  # none of YAML 1.1
    for _name, (_pattern, _first) in _SCALARS.items():
        _characters = ["" if character == "\0" else character for character in _first]
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, _characters)


def parse_yaml(text: str, name: str) -> Document:
    """The one document in `text`; `name` stands for it in errors."""
    try:
        _check_events(text, name)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return Document(None, {})
            _check_expanded_size(node)
            value = loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
        raise RecipeError(f"{name}{line}: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{name}: {' '.join(str(error).split())}.") from None
    except ValueError as error:
        raise RecipeError(f"{name}: a number cannot be read ({error}).") from None
    return Document(value, dict(_lines(node, "")))


def dump_yaml(value: object) -> str:
    """`value` as text that `parse_yaml` reads back as the same."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _check_events(text: str, name: str) -> None:
    """Refuse, before anything is built, what has no place in a recipe."""
    depth = aliases = documents = 0
    for event in yaml.parse(text, Loader=_Loader):
        problem = None
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        if depth > MAX_DEPTH:
            problem = f"values are nested deeper than {MAX_DEPTH} levels"
        elif aliases > MAX_ALIASES:
            problem = f"aliases (*name) are used more than {MAX_ALIASES} times"
        elif documents > 1:
            problem = "a second document begins: keep one per file"
        elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag:
            problem = f"the tag {event.tag!r} is not allowed: write the plain value"
        if problem is not None:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise RecipeError(f"{name}:{line}: {problem}.")


def _check_expanded_size(root: yaml.Node) -> None:
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) in open_nodes:
            raise yaml.MarkedYAMLError(
                problem="a value contains itself through an alias", problem_mark=node.start_mark
            )
        if id(node) not in sizes:
            open_nodes.add(id(node))
            children = _children(node)
            sizes[id(node)] = 1 + sum(size(child) for child in children)
            open_nodes.remove(id(node))
        return sizes[id(node)]

    if size(root) > MAX_VALUES:
        raise yaml.MarkedYAMLError(
            problem=f"aliases expand to more than {MAX_VALUES} values", problem_mark=root.start_mark
        )


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value)


def _lines(node: yaml.Node, prefix: str) -> list[tuple[str, int]]:
    if not isinstance(node, yaml.MappingNode):
        return []
    found = []
    for key, value in node.value:
        path = f"{prefix}{key.value}"
        found.append((path, key.start_mark.line + 1))
        found.extend(_lines(value, f"{path}."))
    return found
