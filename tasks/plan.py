"""Which stages of a recipe would run and which are reused, and why; nothing is run or changed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rlhf_core.artifacts import open_artifact
from rlhf_core.settings.base import Stage
from rlhf_core.settings.recipe import Recipe
from tasks.changes import differences
from tasks.commits import recall
from tasks.fingerprints import Fingerprint, stage_fingerprint
from tasks.handles import table_digests
from tasks.pages import STAGE_INPUTS
from tasks.store import CHECKPOINTS, Store

Action = Literal["reuse", "run"]

NEVER_RUN = "never run in this store"


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
        list(differences(commit["fingerprint"], fingerprint.parts(), unknown))
        for commit in store.commit_records()
        if commit.get("stage") == stage
    ]
    return min(found, key=len, default=[NEVER_RUN])


def _progress(store: Store, key: str) -> list[str]:
    """Whether the job was begun before and would be continued."""
    folder = store.work(key) / CHECKPOINTS
    begun = folder.is_dir() and any(folder.glob("step-*"))
    return ["continues from its last checkpoint"] if begun else []


def _verb(stages: Sequence[str]) -> str:
    return "runs" if len(stages) == 1 else "run"
