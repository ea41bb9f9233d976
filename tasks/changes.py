"""What differs between two fingerprints of a stage, in a line for each part."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tasks.leaves import leaves
from tasks.pages import SHOWN_DIGEST

_MISSING = object()


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], unknown: Sequence[str] = ()
) -> Iterator[str]:
    """One line per part that is not what it was; inputs of the roles `unknown` are passed over."""
    old_settings, new_settings = _set(old["settings"]), _set(new["settings"])
    for name in _all(old_settings, new_settings):
        before, after = old_settings.get(name, _MISSING), new_settings.get(name, _MISSING)
        if before != after:
            yield f"{name}: {_shown(before)} -> {_shown(after)}"
    if old["seed"] != new["seed"]:
        yield f"seed: {old['seed']} -> {new['seed']}"
    for name in _all(old["inputs"], new["inputs"]):
        if name.partition("/")[0] in unknown:
            continue
        before, after = old["inputs"].get(name, ""), new["inputs"].get(name, "")
        if before != after:
            kind, _, path = name.partition(":")
            what = f"file {path}" if kind == "file" else f"input {name}"
            yield f"{what}: {_short(before)} -> {_short(after)}"
    for name in _all(old["code"], new["code"]):
        if old["code"].get(name) != new["code"].get(name):
            yield f"code: {name} {_fate(name, old['code'], new['code'])}"
    for name in _all(old["libraries"], new["libraries"]):
        before, after = old["libraries"].get(name), new["libraries"].get(name)
        if before != after:
            yield f"library {name}: {before} -> {after}"
    if old.get("continued") != new.get("continued"):
        yield "that one went on from a checkpoint of other settings"


def _set(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every value by its dotted name; of a mapping that holds nothing there is none."""
    return {name: value for name, value in leaves(settings) if value != {}}


def _all(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys([*new, *old]))


def _fate(name: str, old: Mapping[str, str], new: Mapping[str, str]) -> str:
    if name not in old:
        return "is imported now"
    return "changed" if name in new else "is no longer imported"


def _short(digest: str) -> str:
    return digest[:SHOWN_DIGEST] or "none"


def _shown(value: object) -> str:
    return "none" if value is _MISSING or value is None else str(value)
