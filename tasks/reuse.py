"""Each stage as a Prefect task whose result is kept under its fingerprint and used again.

Prefect's own task cache carries it: the record's name is the stage with its fingerprint, which the
flow computes, where an error is loud; the record holds plain JSON; whoever makes a result holds its
lock, and the lock dies with its process. What counts is the store: a record that does not name a
committed and whole artifact is dropped.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, cast

from prefect import Task, task
from prefect.cache_policies import CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.logging import get_run_logger
from prefect.transactions import IsolationLevel

from rlhf_core.errors import RlhfError, ServiceError, StorageError
from rlhf_core.settings.base import Stage
from rlhf_core.stopping import PROCESS
from tasks.commits import (
    artifact_commit,
    committed_handle,
    is_untold,
    job_key,
    recall,
    reused_facts,
)
from tasks.fingerprints import with_past
from tasks.handles import Handle, PipelineRun, StageJob
from tasks.locks import StageLocks, hold
from tasks.pipeline import note_stage
from tasks.registration import tell_the_rest
from tasks.reruns import check_taken
from tasks.stage_run import Make, run_stage
from tasks.store import Store

STAGE_TAGS = ["rlhf", "stage"]
"""Prefect tags of every stage. One set for all: for each new set Prefect makes a client of its own
to ask for concurrency limits, which costs two seconds on a small machine."""

RETRY_SECONDS = [10.0, 60.0, 300.0]
"""Waits before a stage is tried again after a fault that may pass: a lost connection, a timeout."""


@dataclass
class StageCache(CachePolicy):
    """Results are found by the task's parameter `key`; one that does not hold is dropped first."""

    store: Store | None = None

    def compute_key(
        self,
        task_ctx: TaskRunContext,  # noqa: ARG002  # Prefect passes them by name
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],  # noqa: ARG002
        **_: Any,
    ) -> str:
        """The job's key; Prefect's record of it stays only if its artifact is committed and whole.

        It must not raise: Prefect would then run the stage without its lock.
        """
        assert self.store is not None
        key = str(inputs["key"])
        fault = record_fault(self.store, key)
        if fault is not None:
            (self.store.stages / key).unlink(missing_ok=True)
            get_run_logger().warning("The kept result is not used: %s", fault)
        return key


def make_or_reuse(job: StageJob, pipeline: PipelineRun, make: Make) -> Handle:
    """The artifact of the job: taken over, found finished in the store, or made now."""
    PROCESS.end_if_asked()
    store = Store(pipeline.store)
    if job.stage in pipeline.taken:
        return _taken_over(job, pipeline)
    if job.stage in pipeline.continued:
        past = pipeline.continued[job.stage]
        job = replace(job, fingerprint=with_past(job.fingerprint, job.stage, past))
    result = _stage_task(job, pipeline)(job.key, job, pipeline, make)
    digest = result["digest"]
    handle = Handle(job.stage, store.object_folder(digest), digest, result["run_id"], result)
    if store.read_run(pipeline.run_id)["stages"].get(job.stage, {}).get("state") != "done":
        _note_reused(job.stage, pipeline, artifact_commit(store, job.stage, digest))
    return handle


def record_fault(store: Store, key: str) -> str | None:
    """Why Prefect's record of a result cannot be used; None where it can, or where there is none.

    The record is named without its content being decoded by Prefect, whose decoder builds objects.
    """
    path = store.stages / key
    if not path.exists():
        return None
    try:
        result = json.loads(json.loads(path.read_text(encoding="utf-8"))["result"])
        digest = result["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{path} is damaged ({type(error).__name__}: {error})."
    recalled = recall(store, key)
    if recalled.commit is None:
        return recalled.fault or f"{path} names a result that was never committed."
    if result != _result(committed_handle(store, recalled.commit)):
        return f"{path} names artifact {digest}, but {recalled.commit['digest']} was committed."
    return None


def may_pass(error: BaseException | None) -> bool:
    """Whether a fault may be gone a minute later; none of the user's, the guard's or the disk's.

    Nor is one waited for that a signal has caused.
    """
    if PROCESS.signum:
        return False
    if error is None or isinstance(error, RlhfError):
        return isinstance(error, ServiceError)
    named = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, ConnectionError | TimeoutError) or bool(
        named & {"TransportError", "RequestException", "HTTPError", "HfHubHTTPError"}
    )


def _retry_if(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    error = state.result(raise_on_failure=False)
    return may_pass(error if isinstance(error, BaseException) else None)


@task(
    name="stage",
    tags=STAGE_TAGS,
    persist_result=True,
    result_serializer="json",
    cache_policy=StageCache(isolation_level=IsolationLevel.SERIALIZABLE),
    retries=len(RETRY_SECONDS),
    retry_delay_seconds=RETRY_SECONDS,
    retry_condition_fn=_retry_if,
)
def _stage(key: str, job: StageJob, pipeline: PipelineRun, make: Make) -> dict[str, str]:
    """Make the job's artifact, unless it was committed before Prefect could write its record."""
    store = Store(pipeline.store)
    if job.stage not in pipeline.force:
        recalled = recall(store, key)
        if recalled.commit is not None:
            if is_untold(store, recalled.commit):
                tell_the_rest(store, recalled.commit, job.inputs, pipeline)
            return _result(committed_handle(store, recalled.commit))
        if recalled.fault is not None:
            get_run_logger().warning("It is made again: %s", recalled.fault)
    return _result(run_stage(job, pipeline, make))


def _stage_task(job: StageJob, pipeline: PipelineRun) -> Callable[..., dict[str, str]]:
    """The task under the stage's own name, with the locks and records of the run's store."""
    store = Store(pipeline.store)
    policy = StageCache(
        isolation_level=IsolationLevel.SERIALIZABLE,
        lock_manager=StageLocks(store.locks),
        store=store,
    )
    bound = _stage.with_options(
        name=job.stage,
        task_run_name=job.stage,
        cache_policy=policy,
        result_storage=store.stages,
        refresh_cache=job.stage in pipeline.force,
    )
    return cast(Callable[..., dict[str, str]], bound)


def _result(handle: Handle) -> dict[str, str]:
    return {"stage": handle.stage, "digest": handle.digest, "run_id": handle.run_id}


def _taken_over(job: StageJob, pipeline: PipelineRun) -> Handle:
    """The artifact that an earlier run made, as it was made."""
    store, stage = Store(pipeline.store), job.stage
    digest = pipeline.taken[stage]
    check_taken(store, {stage: digest})
    commit = artifact_commit(store, stage, digest)
    if is_untold(store, commit):
        with suppress(StorageError), hold(store.lock(job_key(commit))):  # or another process does
            tell_the_rest(store, commit, job.inputs, pipeline)
    _note_reused(stage, pipeline, commit)
    return committed_handle(store, commit)


def _note_reused(stage: Stage, pipeline: PipelineRun, commit: Mapping[str, Any]) -> None:
    """The record of the run says whose result the stage has; so does one line of its log."""
    facts = reused_facts(Store(pipeline.store), commit)
    note_stage(pipeline, stage, **facts)
    get_run_logger().info(
        "%s is reused: artifact %s, made %s by run %s",
        stage,
        facts["digest"][:12],
        facts["made"]["at"],
        facts["run_id"],
    )
