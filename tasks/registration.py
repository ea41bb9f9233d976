"""A published artifact in MLflow: digest, provenance, what people look at, and the model.

It is told once the artifact is committed. Where a process was killed before it had told all, the
next run that uses the artifact tells the rest, in the run that made it.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from rlhf_core.artifacts import MANIFEST, Artifact, open_artifact
from tasks.commits import job_key
from tasks.datasets import raw_files_of, tables_of
from tasks.handles import Handle, PipelineRun
from tasks.heartbeat import beating
from tasks.lineage import trace_folder
from tasks.lineage_page import lineage_page
from tasks.openlineage import export_stage
from tasks.pages import LINEAGE_PAGE, stage_description
from tasks.pipeline import prefect_ids
from tasks.store import JOURNAL, Store
from tasks.tracking import MODEL_TYPES, TrackedRun, open_run

SHOWN_FILES = (
    "*.html",
    "*.png",
    "encoding.json",
    "examples.jsonl",
    "judgements.jsonl",
    "metrics.json",
    "report.json",
    "samples.jsonl",
    "scorecard.json",
    "set-aside.jsonl",
    "sources.json",
    "truncation.json",
)
"""Payload files that people look at; MLflow gets a copy."""


def log_artifact(
    run: TrackedRun,
    artifact: Artifact,
    store: Store,
    provenance: Mapping[str, Any],
    pages: Mapping[str, str],
) -> None:
    """The artifact is in MLflow: digest, provenance, what people look at, and the model."""
    run.set_tags({"artifact.digest": artifact.digest, "artifact.path": str(artifact.path)})
    run.log_json("lineage/provenance.json", provenance)
    run.log_file(artifact.path / MANIFEST, "lineage")
    if artifact.stage == "data":
        run.use_datasets([*raw_files_of(artifact), *tables_of(artifact, None)])
    for file in artifact.files:
        if any(fnmatchcase(file.path, pattern) for pattern in SHOWN_FILES):
            run.log_file(artifact.path / file.path)
    lineage = trace_folder(artifact.path, store)
    run.log_text(LINEAGE_PAGE, lineage_page(lineage))
    export_stage(lineage)
    description = stage_description(
        provenance,
        digest=artifact.digest,
        page=run.path,
        pipeline=run.path.replace(run.run_id, provenance["runs"]["mlflow_pipeline_run"]),
        parents=pages,
    )
    run.describe(description)
    metrics = {name: x for name, x in provenance["metrics"].items() if x is not None}
    if artifact.stage in MODEL_TYPES:
        name = f"{provenance['recipe']}-{artifact.stage}"
        run.register_model(artifact, name, metrics, description)
    else:
        run.log_summary(metrics)


def tell_the_rest(
    store: Store, commit: Mapping[str, Any], inputs: Mapping[str, Handle], pipeline: PipelineRun
) -> None:
    """MLflow has all of the committed artifact, in the run that made it, which is FINISHED.

    What the run had said before stands in its journal; saying it again changes nothing in MLflow.
    The caller holds the lock of the artifact's job.
    """
    key, stage = job_key(commit), commit["stage"]
    journal = store.work(key) / JOURNAL
    artifact = open_artifact(store.object_folder(commit["digest"]), stage)
    with (
        beating(
            store.folder,
            stage=stage,
            run_id=pipeline.run_id,
            journal=journal,
            prefect=prefect_ids(),
        ),
        open_run(
            commit["recipe"],
            stage,
            {"stage": stage},
            parent_run_id=commit["runs"]["mlflow_pipeline_run"],
            journal=journal,
        ) as run,
    ):
        pages = {role: f"#/runs/{parent.run_id}" for role, parent in inputs.items()}
        log_artifact(run, artifact, store, commit, pages)
    store.remove_work(key)
