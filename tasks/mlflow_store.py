"""The way to MLflow: opened by one process at a time where it is a SQLite file, and asked back."""

import fcntl
import functools
import os
import secrets
from pathlib import Path

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from tasks.run_journal import LOCAL_PREFIX

JOURNAL_TAG = "journal.id"
"""Names the journal of a run; by it a run is found whose creation was never answered."""

_SQLITE = "sqlite:///"


@functools.lru_cache(maxsize=4)
def mlflow_client(uri: str) -> MlflowClient:
    """A client of the tracking address, whose tables are there.

    MLflow makes and migrates the tables of a SQLite file at first sight, and two processes that do
    so at once spoil it for both: they wait for each other here.
    """
    if not uri.startswith(_SQLITE):
        return MlflowClient(uri)
    file = Path(uri.removeprefix(_SQLITE))
    folder = file.parent / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / "mlflow.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            _make_tables(file)
        return _client_with_tables(uri)
    finally:
        os.close(lock)


def _make_tables(file: Path) -> None:
    """The SQLite file is there with all its tables, or, after a kill, not at all.

    Half of them would keep MLflow from ever making the others: another file gets them first.
    """
    start = f".{file.name}.new"
    for left in file.parent.glob(f"{start}*"):
        left.unlink(missing_ok=True)
    # A name of its own each time: MLflow keeps connections by name, to a file that is gone too.
    staged = file.with_name(f"{start}-{secrets.token_hex(4)}")
    _client_with_tables(f"{_SQLITE}{staged}")
    staged.replace(file)


def _client_with_tables(uri: str) -> MlflowClient:
    try:
        client = MlflowClient(uri)
        client.search_registered_models(max_results=1)  # the registry looks at the tables too
    except SQLAlchemyError as error:  # what MLflow lets through where it makes its tables
        raise MlflowException(f"{uri} cannot be opened: {error}") from error
    return client


def tracking_client() -> MlflowClient:
    """A client of the MLflow that the environment names."""
    return mlflow_client(os.environ["MLFLOW_TRACKING_URI"])


def find_run(client: MlflowClient, run_id: str) -> str | None:
    """MLflow's id of a run that may be named by its journal; None where MLflow has it not yet."""
    if not run_id.startswith(LOCAL_PREFIX):
        return run_id
    runs = runs_of_journal(client, run_id.removeprefix(LOCAL_PREFIX))
    return runs[0] if runs else None


def runs_of_journal(client: MlflowClient, journal: str) -> list[str]:
    """MLflow's ids of the runs made for a journal, oldest first; more than one after lost answers.

    A server that was slow to answer may have made a run that was given up.
    """
    return runs_with_tag(client, JOURNAL_TAG, journal)


def runs_with_tag(client: MlflowClient, tag: str, value: str) -> list[str]:
    """MLflow's ids of the runs whose tag has this value, in all experiments, oldest first."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    if not experiments:
        return []
    found = client.search_runs(
        experiments, f"tags.`{tag}` = '{value}'", order_by=["attributes.start_time ASC"]
    )
    return [run.info.run_id for run in found]


def run_if_there(client: MlflowClient, run_id: str) -> Run | None:
    """The run, or None where MLflow has none of this id."""
    known = find_run(client, run_id)
    if known is None:
        return None
    try:
        return client.get_run(known)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def run_digest(run_id: str) -> str | None:
    """Digest of the artifact that a run made, or None where MLflow knows no such run."""
    client = tracking_client()
    try:
        known = find_run(client, run_id)
        if known is None:
            return None
        tags: dict[str, str] = client.get_run(known).data.tags
    except MlflowException:
        return None
    return tags.get("artifact.digest")


def registered_digest(name: str) -> str | None:
    """Digest of a registered model version named `model@alias` or `model/version`."""
    model, _, alias = name.partition("@")
    client = tracking_client()
    try:
        if alias:
            version = client.get_model_version_by_alias(model, alias)
        else:
            version = client.get_model_version(*name.rsplit("/", 1))
    except MlflowException:
        return None
    tags: dict[str, str] = version.tags
    return tags.get("artifact.digest")
