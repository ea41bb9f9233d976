"""What a user may name an artifact by: folder, digest, run, or registered model."""

import re
from pathlib import Path

from rlhf_core.artifacts import MANIFEST, Artifact, open_artifact
from rlhf_core.errors import ArtifactError
from tasks.store import SHORTEST_DIGEST, Store

_MLFLOW_RUN = re.compile(r"[0-9a-f]{32}")


def find_target(target: str, store: Store) -> Artifact:
    """The artifact that `target` names, whole at first sight: every file there with its size."""
    return open_artifact(find_folder(target, store))


def find_folder(target: str, store: Store) -> Path:
    """The folder of the artifact that `target` names, whatever state it is in.

    `target` is a folder, a digest or its beginning, an MLflow run id or its beginning (of a stage
    run, or of a pipeline run, which stands for its last artifact), or a registered model as
    `name@alias` or `name/version`. MLflow is asked, and loaded, only where the store cannot tell.
    """
    if _is_folder(target):
        return Path(target).resolve()
    found = _of_digest(target, store) or _of_run(target, store)
    if len(found) == 1:
        return found.pop()
    if not found and ("@" in target or "/" in target or _MLFLOW_RUN.fullmatch(target)):
        digest = _ask_mlflow(target)
        if digest is not None:
            return store.object_folder(digest)
    raise ArtifactError(
        f"The store {store.folder} holds {'several artifacts' if found else 'no artifact'} whose "
        f"digest begins with {target!r}, nor is it a folder here or the id of a run. Give at least "
        f"{SHORTEST_DIGEST} characters of a digest that `rlhf runs` shows, or another store with "
        "--store."
    )


def _is_folder(target: str) -> bool:
    try:
        return (Path(target) / MANIFEST).is_file() or Path(target).is_dir()
    except OSError:  # longer than a name can be
        return False


def _of_digest(start: str, store: Store) -> set[Path]:
    if not store.objects.is_dir() or len(start) < SHORTEST_DIGEST:
        return set()
    return {path for path in store.objects.iterdir() if path.name.startswith(start)}


def _of_run(start: str, store: Store) -> set[Path]:
    """Artifacts of the stage runs, and the last ones of the pipeline runs, that begin so."""
    if len(start) < SHORTEST_DIGEST:
        return set()
    digests = {
        str(commit["digest"])
        for commit in store.commit_records()
        if str(commit["runs"]["mlflow_run"]).startswith(start)
    }
    for path in store.runs.glob("*.json"):
        if path.name.startswith(start):
            stages = store.read_run(path.stem)["stages"].values()
            made = [str(facts["digest"]) for facts in stages if "digest" in facts]
            digests.update(made[-1:])
    return {store.object_folder(digest) for digest in digests}


def _ask_mlflow(target: str) -> str | None:
    from tasks.mlflow_store import registered_digest, run_digest  # a second and a half to load

    if "@" in target or "/" in target:
        return registered_digest(target)
    return run_digest(target)
