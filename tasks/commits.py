"""What the store already holds: the finished result of a job, if every byte of it is there."""

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from rlhf_core.artifacts import read_provenance, verify_artifact
from rlhf_core.errors import ArtifactError
from rlhf_core.settings.base import Stage
from tasks.handles import Handle
from tasks.pages import short_run_url
from tasks.run_journal import is_unfinished
from tasks.store import JOURNAL, Store


class Recalled(NamedTuple):
    """What came of looking for a finished result: its commit, or why there is none."""

    commit: Mapping[str, Any] | None
    fault: str | None
    """Why a result that was committed is not used; None where none was."""


def recall(store: Store, key: str) -> Recalled:
    """The commit of the job `key`, its artifact hashed again; nothing is changed."""
    try:
        commit = store.read_commit(key)
        if commit is None:
            return Recalled(None, None)
        artifact = verify_artifact(store.object_folder(commit["digest"]), commit["stage"])
        artifact.provenance()
    except ArtifactError as error:
        return Recalled(None, str(error))
    return Recalled(commit, None)


def artifact_commit(store: Store, stage: Stage, digest: str) -> Mapping[str, Any]:
    """The newest commit of this artifact; what the artifact says itself where none is left."""
    for commit in store.commit_records():
        if commit.get("stage") == stage and commit.get("digest") == digest:
            return commit
    return {"digest": digest, **read_provenance(store.object_folder(digest))}


def committed_handle(store: Store, commit: Mapping[str, Any]) -> Handle:
    """What travels on in place of a stage run."""
    digest = commit["digest"]
    return Handle(
        commit["stage"], store.object_folder(digest), digest, commit["runs"]["mlflow_run"]
    )


def job_key(commit: Mapping[str, Any]) -> str:
    """The key of the job whose commit this is."""
    return f"{commit['stage']}-{commit['fingerprint']['digest']}"


def is_untold(store: Store, commit: Mapping[str, Any]) -> bool:
    """Whether the run that made the artifact was cut short before it had told MLflow all of it."""
    return is_unfinished(store.work(job_key(commit)) / JOURNAL)


def thread_note(commits: Iterable[Mapping[str, Any]]) -> str | None:
    """A sentence where reused results were made with another number of threads than this run has.

    That decides of nothing but the last bits of a number, so nothing runs again for it. What this
    run has is known where OMP_NUM_THREADS says so.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    if not given.isdecimal():
        return None
    others = {
        commit["stage"]: commit["machine"]["threads"]
        for commit in commits
        if commit.get("machine", {}).get("threads", int(given)) != int(given)
    }
    if not others:
        return None
    made = ", ".join(f"{stage} with {threads}" for stage, threads in others.items())
    return (
        f"Made with another number of torch threads than this run's {given}: {made}. They are "
        "reused; made again here they need not be the same bit for bit."
    )


def reused_facts(store: Store, commit: Mapping[str, Any]) -> dict[str, Any]:
    """What the record of a pipeline run says of a stage whose result was made before."""
    run_id = commit["runs"]["mlflow_run"]
    return {
        "state": "reused",
        "seconds": 0.0,
        "digest": commit["digest"],
        "path": str(store.object_folder(commit["digest"])),
        "run_id": run_id,
        "url": short_run_url(run_id),
        "path_in_mlflow": f"#/runs/{run_id}",
        "metrics": commit["metrics"],
        "made": {
            "at": commit["ended_at"],
            "seconds": commit["seconds"],
            "recipe": commit["recipe"],
            "threads": commit.get("machine", {}).get("threads"),
            "pipeline_run": commit["runs"]["mlflow_pipeline_run"],
        },
    }
