"""What an earlier pipeline run hands on: its recipe and the artifacts that it had finished."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from rlhf_core.artifacts import verify_artifact
from rlhf_core.errors import ArtifactError, UserError
from rlhf_core.recipes import load_recipe
from rlhf_core.settings.base import STAGES, Stage
from rlhf_core.settings.recipe import Recipe
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


def plan_rerun(store: Store, run: str, first: Stage | None) -> Rerun:
    """The run whose id begins with `run` from stage `first` on: by default the first unfinished.

    A stage that is named is computed again, even where it had been finished.
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
    return Rerun(recipe, Path(record.get("folder", ".")), force, taken)


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
