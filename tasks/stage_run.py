"""What every stage run does: open the inputs, compute, publish, and write down where it came from.

The order is that of a safe publish: payload, manifest, rename, commit record, MLflow, handle.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import runtime
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from rlhf_core.artifacts import REMADE, Artifact, verify_artifact
from rlhf_core.checkpoints import Checkpoints
from rlhf_core.errors import ArtifactError, TrainingStopped
from rlhf_core.folders import pretty_json
from rlhf_core.recipes import dump_recipe
from rlhf_core.report import Report
from rlhf_core.sentinel.diagnosis import DIAGNOSIS, LAST_GOOD
from tasks.continuations import (
    checkpoint_identity,
    inherited,
    note_job,
    past_lines,
    unfinished_others,
)
from tasks.data_report import refusal_kept
from tasks.datasets import tables_of, tables_read
from tasks.environment import checkpoint_seconds
from tasks.faults import later_faults_logged, memory_faults_named, storage_faults_named
from tasks.handles import Handle, PipelineRun, StageJob
from tasks.heartbeat import beating
from tasks.pages import RECIPE, stage_page
from tasks.pipeline import end_state, note_stage, prefect_ids, run_tags
from tasks.progress import PROGRESS, Progress
from tasks.provenance import RunIds, encoding_record, environment_record, stage_provenance
from tasks.registration import log_artifact
from tasks.store import CHECKPOINTS, JOURNAL, Store
from tasks.tracking import TrackedRun, open_run

Make = Callable[[StageJob, Path, Report, Checkpoints], Mapping[str, float]]
"""Writes a stage's payload into the empty folder, reports on the way, returns summary metrics; it
continues from a checkpoint where there is one."""


def run_stage(job: StageJob, pipeline: PipelineRun, make: Make) -> Handle:
    """Compute the job's artifact, publish it, and link it to what it was made from."""
    store = Store(pipeline.store)
    inputs = {role: _open_input(handle) for role, handle in job.inputs.items()}
    started, began = datetime.now(UTC), time.monotonic()
    journal = store.work(job.key) / JOURNAL
    with (
        storage_faults_named(store),
        beating(
            store.folder,
            stage=job.stage,
            run_id=pipeline.run_id,
            journal=journal,
            prefect=prefect_ids(),
        ),
        _noted(job, pipeline),
        open_run(
            pipeline.recipe_name,
            job.stage,
            _tags(job, pipeline),
            parent_run_id=pipeline.run_id,
            journal=journal,
        ) as run,
        storage_faults_named(store),
    ):
        pages = _log_beginning(run, job, inputs)
        with (
            memory_faults_named(job, run),
            _diagnosis_kept(job, run, store),
            refusal_kept(job, run, store),
        ):
            metrics = _compute(job, pipeline.run_id, run, store, make)
        for handle in job.inputs.values():
            _open_input(handle)  # what was read is what was checked
        ids = RunIds(
            mlflow_run=run.run_id,
            mlflow_pipeline_run=pipeline.run_id,
            prefect_flow_run=runtime.flow_run.id,
            prefect_task_run=runtime.task_run.id,
        )
        seconds = time.monotonic() - began
        provenance = stage_provenance(
            job, pipeline, ids, metrics=metrics, started=started, seconds=seconds
        )
        provenance["encoding"] = encoding_record(store.work(job.key) / "payload")
        artifact = store.publish(job.key, job.stage, provenance)
        log_artifact(run, artifact, store, provenance, pages)
        _show(run, pipeline, artifact, provenance)
    store.remove_work(job.key)
    return Handle(job.stage, artifact.path, artifact.digest, run.run_id)


def _open_input(handle: Handle) -> Artifact:
    """The artifact that the handle names, every byte of it as it was published."""
    artifact = verify_artifact(handle.path, handle.stage)
    if artifact.digest != handle.digest:
        raise ArtifactError(
            f"{handle.path} has digest {artifact.digest}, but {handle.digest} was made: the folder "
            f"was replaced. {REMADE}"
        )
    return artifact


def _compute(
    job: StageJob, pipeline_run: str, run: TrackedRun, store: Store, make: Make
) -> Mapping[str, float]:
    progress = Progress(job.stage)
    notice = get_run_logger().warning
    note_job(store, job, pipeline_run)
    for line in unfinished_others(store, job):
        notice(line)
    checkpoints = Checkpoints(
        store.work(job.key) / CHECKPOINTS,
        identity=checkpoint_identity(job.stage, job.fingerprint.digest),
        inherited=inherited(store, job),
        every_seconds=checkpoint_seconds(),
        notice=notice,
        before_save=run.sync,
    )

    def report(step: int, metrics: Mapping[str, float]) -> None:
        run.report(step, {name: x for name, x in metrics.items() if name != PROGRESS})
        progress.report(step, metrics)

    metrics = make(job, store.stage_payload(job.key), report, checkpoints)
    run.sync()
    progress.finish()
    return metrics


def _tags(job: StageJob, pipeline: PipelineRun) -> dict[str, str]:
    tags = {
        **run_tags(pipeline.recipe_name),
        "stage": job.stage,
        "stage.fingerprint": job.fingerprint.digest,
    }
    if job.fingerprint.continued is not None:
        tags["stage.continued"] = "; ".join(past_lines(job.fingerprint.continued))
    for role, parent in job.inputs.items():
        tags[f"parent.{role}.run_id"] = parent.run_id
        tags[f"parent.{role}.digest"] = parent.digest
    return tags


def _log_beginning(
    run: TrackedRun, job: StageJob, inputs: Mapping[str, Artifact]
) -> dict[str, str]:
    """Settings, recipe, environment and inputs are in MLflow; returns the parents' pages."""
    run.log_settings({**job.settings, "seed": job.recipe.seed})
    run.log_text(RECIPE, dump_recipe(job.recipe))
    run.log_json("lineage/environment.json", environment_record())
    run.log_json("lineage/fingerprint.json", job.fingerprint.parts())
    if "data" in inputs:
        run.use_datasets(tables_of(inputs["data"], tables_read(job.recipe, job.stage)))
    return run.use_models(job.inputs)


def _show(
    run: TrackedRun, pipeline: PipelineRun, artifact: Artifact, provenance: Mapping[str, Any]
) -> None:
    """The stage run has its page in Prefect and its lines in the record of the pipeline run."""
    seconds = provenance["seconds"]
    create_markdown_artifact(
        stage_page(
            stage=artifact.stage,
            metrics=provenance["metrics"],
            digest=artifact.digest,
            url=run.url,
            seconds=seconds,
        ),
        key=artifact.stage.replace("_", "-"),
        description=f"MLflow run and metrics of stage {artifact.stage}.",
    )
    note_stage(
        pipeline,
        artifact.stage,
        state="done",
        seconds=seconds,
        digest=artifact.digest,
        path=str(artifact.path),
        run_id=run.run_id,
        url=run.url,
        path_in_mlflow=run.path,
        metrics=provenance["metrics"],
    )


@contextmanager
def _noted(job: StageJob, pipeline: PipelineRun) -> Iterator[None]:
    """The record of the pipeline run says that the stage runs, and how it ended if badly."""
    note_stage(pipeline, job.stage, state="running")
    try:
        yield
    except BaseException as error:
        with later_faults_logged():
            note_stage(pipeline, job.stage, state=end_state(error))
        raise


@contextmanager
def _diagnosis_kept(job: StageJob, run: TrackedRun, store: Store) -> Iterator[None]:
    """Where the guard stops training, its verdict stands in the work folder and on the run.

    The last good policy is moved beside it, and the message says where both are.
    """
    try:
        yield
    except TrainingStopped as stopped:
        work = store.work(job.key)
        verdict = str(stopped)
        path = work / DIAGNOSIS
        document = {"verdict": verdict, "stage": job.stage, **stopped.diagnosis}
        places = f"The diagnosis is in {path}"
        saved = work / "payload" / LAST_GOOD
        if saved.is_dir():
            kept = work / LAST_GOOD
            shutil.rmtree(kept, ignore_errors=True)
            saved.rename(kept)
            document["last_good"] = str(kept)
            places += f", the last good policy in {kept}"
        path.write_bytes(pretty_json(document))
        run.log_json(DIAGNOSIS, document)
        run.set_tags({"diagnosis": verdict})
        raise TrainingStopped(f"{verdict} {places}.", document) from stopped
