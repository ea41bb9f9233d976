"""What an earlier pipeline run hands on: its recipe and the artifacts that it had finished."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from rlhf_core.artifacts import open_artifact, verify_artifact
from rlhf_core.errors import ArtifactError, UserError
from rlhf_core.recipes import load_recipe
from rlhf_core.settings.base import STAGES, Stage
from rlhf_core.settings.recipe import Recipe
from tasks.continuations import changed_values, continue_changed
from tasks.fingerprints import Fingerprint, stage_fingerprint, with_past
from tasks.handles import table_digests
from tasks.pages import STAGE_INPUTS
from tasks.store import SHORTEST_DIGEST, Store

FINISHED = ("done", "reused")


@dataclass(frozen=True)
class Rerun:
    """What to run again, and what to take over."""

    recipe: Recipe
    folder: Path
    """Where the earlier run stood: its recipe may name files relative to it."""

    force: tuple[Stage, ...]
    taken: Mapping[Stage, str]
    """Stage to artifact digest."""

    continued: Mapping[Stage, dict[str, Any]] = field(default_factory=dict)
    """What the fingerprint of a stage says that goes on from a checkpoint of other settings."""


def plan_rerun(
    store: Store,
    run: str,
    first: Stage | None,
    overrides: Sequence[str] = (),
    allowed: Sequence[str] = (),
) -> Rerun:
    """The run whose id begins with `run` from stage `first` on: by default the first unfinished.

    A stage that is named is computed again, even where it had been finished. Where `overrides`
    change the settings of that stage, it goes on from its last checkpoint with those that are
    `allowed`; settings of later stages may change freely, those of earlier ones may not.
    """
    record = find_run(store, run)
    recipe = load_recipe(store.check_recipe(record))
    finished = finished_stages(record)
    force: tuple[Stage, ...] = ()
    if first is None:
        missing = [stage for stage in recipe.stages if stage not in finished]
        if not missing:
            raise UserError(
                f"Run {record['run_id']} finished all its stages. Name the one to compute again: "
                f"--from {recipe.stages[-1]}, for example."
            )
        first = missing[0]
    elif first not in recipe.stages:
        raise UserError(
            f"Run {record['run_id']} has no stage {first}: its recipe has "
            f"{', '.join(recipe.stages)}."
        )
    else:
        force = (first,)
    earlier = recipe.stages[: recipe.stages.index(first)]
    absent = [stage for stage in earlier if stage not in finished]
    if absent:
        raise UserError(
            f"Run {record['run_id']} never finished {absent[0]}, which {first} needs: use --from "
            f"{absent[0]}, or leave --from away."
        )
    taken = {stage: finished[stage] for stage in earlier}
    check_taken(store, taken, run_id=record["run_id"])
    folder = Path(record.get("folder", "."))
    past = record.get("continued", {}).get(first)
    continued = {} if past is None else {first: past}
    if not (overrides or allowed):
        return Rerun(recipe, folder, force, taken, continued)
    changed = load_recipe(store.check_recipe(record), overrides)
    _refuse_changes_of_earlier(recipe, changed, first)
    old, new = (_fingerprint(it, first, store, taken) for it in (recipe, changed))
    if first in continued:
        old = with_past(old, first, continued[first])
    idle = [name for name in allowed if name not in changed_values(old, new)]
    if idle:
        raise UserError(
            f"--allow-change {idle[0]}: {first} does not have it otherwise than before. Give what "
            f"is to change with --set, for example --set {first}.learning_rate=1e-5."
        )
    if changed_values(old, new):
        past = continue_changed(store, first, old, new, allowed)
        return Rerun(changed, folder, (), taken, {first: past})
    return Rerun(changed, folder, force, taken, continued)


def _refuse_changes_of_earlier(old: Recipe, new: Recipe, first: Stage) -> None:
    """Raise UserError where a section differs that decides of an artifact that is taken over."""
    sections: list[str] = [*STAGES[: STAGES.index(first)], "model"]
    others = [name for name in sections if getattr(old, name) != getattr(new, name)]
    if others:
        raise UserError(
            f"--set changes {others[0]}, which decides of stages before {first}; a rerun takes "
            "those as they were. `rlhf run` with the changed recipe makes them anew."
        )


def _fingerprint(
    recipe: Recipe, stage: Stage, store: Store, taken: Mapping[Stage, str]
) -> Fingerprint:
    """The fingerprint of the stage on the artifacts that are taken over."""
    inputs: dict[str, str] = {}
    for role in STAGE_INPUTS[stage]:
        if role == "data":
            data = open_artifact(store.object_folder(taken[role]), role)
            inputs |= table_digests(recipe, stage, data)
        else:
            inputs[role] = taken[role]
    return stage_fingerprint(recipe, stage, inputs)


def find_run(store: Store, start: str) -> dict[str, Any]:
    """The record of the one pipeline run whose id begins so."""
    found = []
    if len(start) >= SHORTEST_DIGEST:
        found = [run for run in store.run_records() if str(run["run_id"]).startswith(start)]
    if len(found) != 1:
        raise UserError(
            f"The store {store.folder} holds {len(found) or 'no'} pipeline run"
            f"{'s' if len(found) > 1 else ''} whose id begins with {start!r}. Give at least "
            f"{SHORTEST_DIGEST} characters of an id that `rlhf runs` shows."
        )
    return found[0]


def finished_stages(record: Mapping[str, Any]) -> dict[Stage, str]:
    """Stage to artifact digest, of the stages that the run made or reused."""
    return {
        stage: record["stages"][stage]["digest"]
        for stage in STAGES
        if record["stages"].get(stage, {}).get("state") in FINISHED
    }


def stages_of_attempt(store: Store, flow_run_id: str) -> dict[Stage, str]:
    """What the last attempt of a Prefect flow run had finished, before its first open stage."""
    for record in store.run_records():
        if record.get("prefect_flow_run") == flow_run_id:
            finished = finished_stages(record)
            return {stage: finished[stage] for stage in takewhile(finished.__contains__, STAGES)}
    return {}


def check_taken(store: Store, taken: Mapping[Stage, str], run_id: str = "RUN") -> None:
    """Refuse to go on from an artifact that was damaged since, and offer to make it again."""
    for stage, digest in taken.items():
        try:
            verify_artifact(store.object_folder(digest), stage)
        except ArtifactError as error:
            raise ArtifactError(
                f"The run took artifact {digest} of stage '{stage}', which is not what it was: "
                f"{error} To make it again and go on from there: `rlhf rerun {run_id} --from "
                f"{stage}`."
            ) from error
