"""Finished stages in a store, published as the tasks do it but with a few bytes for payload."""

from collections.abc import Mapping, Sequence

from rlhf_core.artifacts import Artifact
from rlhf_core.settings.base import STAGES, Stage
from rlhf_core.settings.recipe import Recipe
from tasks.handles import Handle, StageJob, stage_job
from tasks.pages import STAGE_INPUTS
from tasks.store import Store

TABLES = (
    *("demonstrations-train", "demonstrations-validation"),
    *("preferences-train", "preferences-validation"),
    *("prompts-train", "prompts-evaluation"),
)


def commit_recipe(
    recipe: Recipe,
    store: Store,
    *,
    stages: Sequence[Stage] = STAGES,
    tables: Mapping[str, bytes] | None = None,
) -> dict[Stage, Handle]:
    """Publish and commit the recipe's stages, in order; each on those before it."""
    made: dict[Stage, Handle] = {}
    for stage in stages:
        inputs = {role: made[role] for role in STAGE_INPUTS[stage]}
        made[stage] = commit_job(stage_job(recipe, stage, **inputs), store, tables or {})
    return made


def commit_job(job: StageJob, store: Store, tables: Mapping[str, bytes]) -> Handle:
    payload = store.stage_payload(job.key)
    if job.stage == "data":
        for table in TABLES:
            (payload / f"{table}.parquet").write_bytes(tables.get(table, table.encode()))
    else:
        (payload / "payload").write_bytes(f"{job.stage} {job.recipe.seed}".encode())
    artifact = store.publish(job.key, job.stage, provenance(job))
    store.remove_work(job.key)
    return handle(artifact)


def handle(artifact: Artifact) -> Handle:
    return Handle(artifact.stage, artifact.path, artifact.digest, f"run-of-{artifact.stage}")


def provenance(job: StageJob) -> dict[str, object]:
    return {
        "stage": job.stage,
        "recipe": job.recipe.name,
        "fingerprint": job.fingerprint.record(),
        "inputs": {
            role: {"stage": role, "digest": made.digest, "run_id": made.run_id}
            for role, made in job.inputs.items()
        },
        "runs": {"mlflow_run": f"run-of-{job.stage}", "mlflow_pipeline_run": "pipeline"},
        "code": {"package": "1.0"},
        "metrics": {"loss": 0.5},
        "ended_at": "2026-01-01T00:00:00+00:00",
        "seconds": 1.5,
    }
