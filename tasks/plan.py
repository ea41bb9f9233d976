"""Which stages of a recipe would run and which are reused, and why; nothing is run or changed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rlhf_core.artifacts import open_artifact
from rlhf_core.settings.base import Stage
from rlhf_core.settings.recipe import Recipe
from tasks.commits import recall
from tasks.fingerprints import Fingerprint, stage_fingerprint
from tasks.handles import table_digests
from tasks.leaves import leaves
from tasks.pages import SHOWN_DIGEST, STAGE_INPUTS
from tasks.store import CHECKPOINTS, Store

Action = Literal["reuse", "run"]

NEVER_RUN = "never run in this store"
MISSING = object()


@dataclass(frozen=True)
class PlannedStage:
    """What would happen to one stage."""

    stage: Stage
    action: Action
    reasons: tuple[str, ...]
    """Why it would run; what it was compared with is the nearest result of that stage."""

    key: str | None
    """Names the job; None where an input is yet to be made."""

    commit: Mapping[str, Any] | None
    """The result that is reused."""

    def to_json(self) -> dict[str, Any]:
        """The facts for a machine."""
        facts = asdict(self) | {"reasons": list(self.reasons)}
        del facts["commit"]
        if self.commit is not None:
            runs = self.commit["runs"]
            facts |= {
                "digest": self.commit["digest"],
                "run_id": runs["mlflow_run"],
                "made_at": self.commit["ended_at"],
            }
        return facts


def plan_recipe(recipe: Recipe, store: Store, force: Sequence[Stage] = ()) -> list[PlannedStage]:
    """What `rlhf run` would do with each stage of the recipe, in order."""
    planned: dict[Stage, PlannedStage] = {}
    for stage in recipe.stages:
        planned[stage] = _plan_stage(recipe, stage, store, planned, forced=stage in force)
    return list(planned.values())


def _plan_stage(
    recipe: Recipe,
    stage: Stage,
    store: Store,
    earlier: Mapping[Stage, PlannedStage],
    *,
    forced: bool,
) -> PlannedStage:
    inputs, waits_for = _inputs(recipe, stage, store, earlier)
    fingerprint = stage_fingerprint(recipe, stage, inputs)
    if waits_for:
        depends = f"depends on {' and '.join(waits_for)}, which {_verb(waits_for)}"
        changes = _changes(store, stage, fingerprint, waits_for)
        if not (changes or forced):
            depends += "; reused where that makes the same artifact again"
        reasons = changes if changes == [NEVER_RUN] else [depends, *changes]
        return PlannedStage(stage, "run", (*(["forced"] * forced), *reasons), None, None)
    key = f"{stage}-{fingerprint.digest}"
    if forced:
        return PlannedStage(stage, "run", ("forced", *_progress(store, key)), key, None)
    recalled = recall(store, key)
    if recalled.commit is not None:
        return PlannedStage(stage, "reuse", (), key, recalled.commit)
    if recalled.fault is not None:
        return PlannedStage(stage, "run", (recalled.fault, *_progress(store, key)), key, None)
    reasons = _changes(store, stage, fingerprint, ()) or [NEVER_RUN]
    return PlannedStage(stage, "run", (*reasons, *_progress(store, key)), key, None)


def _inputs(
    recipe: Recipe, stage: Stage, store: Store, earlier: Mapping[Stage, PlannedStage]
) -> tuple[dict[str, str], list[str]]:
    """The digests of the inputs that are known, and the stages whose artifact is not."""
    inputs: dict[str, str] = {}
    waits_for: list[str] = []
    for role in STAGE_INPUTS[stage]:
        if role not in earlier:  # a reward model where PPO is paid by functions
            continue
        commit = earlier[role].commit
        if commit is None:
            waits_for.append(role)
        elif role == "data":
            data = open_artifact(store.object_folder(commit["digest"]), "data")
            inputs |= table_digests(recipe, stage, data)
        else:
            inputs[role] = commit["digest"]
    return inputs, waits_for


def _changes(
    store: Store, stage: Stage, fingerprint: Fingerprint, unknown: Sequence[str]
) -> list[str]:
    """What differs from the earlier result of the stage that differs least; the newest of those."""
    found = [
        list(_differences(commit["fingerprint"], fingerprint.parts(), unknown))
        for commit in store.commit_records()
        if commit.get("stage") == stage
    ]
    return min(found, key=len, default=[NEVER_RUN])


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], unknown: Sequence[str]
) -> Iterator[str]:
    """One line per part of the fingerprint that is not what it was."""
    old_settings, new_settings = _set(old["settings"]), _set(new["settings"])
    for name in _all(old_settings, new_settings):
        before, after = old_settings.get(name, MISSING), new_settings.get(name, MISSING)
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


def _progress(store: Store, key: str) -> list[str]:
    """Whether the job was begun before and would be continued."""
    folder = store.work(key) / CHECKPOINTS
    begun = folder.is_dir() and any(folder.glob("step-*"))
    return ["continues from its last checkpoint"] if begun else []


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
    return "none" if value is MISSING or value is None else str(value)


def _verb(stages: Sequence[str]) -> str:
    return "runs" if len(stages) == 1 else "run"
