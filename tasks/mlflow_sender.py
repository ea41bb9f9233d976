"""Says a journal's records to MLflow, each in such a way that saying it twice changes nothing.

MLflow itself takes a metric point, a param, a tag, a dataset, an artifact or a status again as the
same one. Runs and models it would make anew: they are looked for first.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import requests
from mlflow.entities import (
    Dataset as TrackedDataset,
)
from mlflow.entities import (
    DatasetInput,
    InputTag,
    Metric,
    Param,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tasks.journal import Record
from tasks.mlflow_models import (
    PARENT_TAG,
    link_models,
    linked,
    log_points,
    mend_links_to,
    register_model,
)
from tasks.mlflow_store import JOURNAL_TAG, find_run, mlflow_client, runs_of_journal
from tasks.run_journal import LOCAL_PREFIX
from tasks.shipper import MAX_BATCH_METRICS, Gone, Place, Refused, Unreachable, server_name

MAX_PARAMS = 100
DATASET_DIGEST_CHARACTERS = 32
"""MLflow takes at most 36; the whole SHA-256 stands in a tag."""

_REFUSALS = {
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
_PAST_TROUBLES = ("failure", "orphan.reason")


class Sender:
    """Says records to the MLflow at one tracking address."""

    def __init__(self, uri: str, tries: float) -> None:
        self._uri = uri
        self._tries = tries
        """How often a run that is named, and that MLflow has not heard of yet, is waited for."""

    def __call__(self, place: Place | None, records: Sequence[Record]) -> Place | None:
        """MLflow has the records; all are metrics, or there is but one."""
        try:
            client = mlflow_client(self._uri)
            if records[0]["kind"] == "open":
                return self._open(client, place, records[0])
            if place is None:
                raise Refused("the journal does not begin with the opening of a run")
            if records[0]["kind"] == "metrics":
                _log_metrics(client, place.run_id, records)
            else:
                for run_id in records[0].get("runs", ()):
                    self._await_run(client, run_id)
                _say(client, place, records[0])
        except MlflowException as error:
            raise self._fault(place, error) from error
        except (FileNotFoundError, UnicodeError) as error:
            raise Refused(_first_line(error)) from error
        except (requests.RequestException, OSError, ValueError) as error:
            raise Unreachable(f"{server_name(self._uri)}: {_first_line(error)}") from error
        return place

    def _open(self, client: MlflowClient, place: Place | None, record: Record) -> Place:
        """The run is there and runs: found by its journal's name, or made."""
        tags = {
            name: (self._await_run(client, value) or value) if _is_local(value) else value
            for name, value in record["tags"].items()
        }
        tags |= {
            JOURNAL_TAG: record["journal"],
            "mlflow.user": "rlhf",
            "mlflow.source.name": "rlhf",
        }
        if record["parent"] is not None:
            tags[PARENT_TAG] = self._await_run(client, record["parent"]) or record["parent"]
        known = [place.run_id] if place else runs_of_journal(client, record["journal"])
        if not known:
            experiment = _experiment_id(client, record["experiment"])
            run = client.create_run(
                experiment, start_time=record["time"], tags=tags, run_name=record["name"]
            )
            return Place(run.info.run_id, experiment)
        run = client.get_run(known[0])
        client.update_run(known[0], status="RUNNING")
        client.log_batch(known[0], tags=[RunTag(name, value) for name, value in tags.items()])
        for tag in _PAST_TROUBLES:
            if tag in run.data.tags:
                client.delete_tag(known[0], tag)
        return Place(known[0], run.info.experiment_id)

    def _await_run(self, client: MlflowClient, run_id: str) -> str | None:
        """MLflow's id of a run; what names it waits until MLflow has it, but not for ever."""
        found = find_run(client, run_id)
        if found is None and self._tries > 0:
            self._tries -= 1
            raise Unreachable(f"{server_name(self._uri)} does not have run {run_id} yet")
        return found

    def _fault(self, place: Place | None, error: MlflowException) -> Exception:
        if error.error_code not in _REFUSALS:
            return Unreachable(f"{server_name(self._uri)}: {_first_line(error)}")
        if place is not None and self._is_deleted(place):
            return Gone(f"MLflow run {place.run_id} was deleted")
        return Refused(_first_line(error))

    def _is_deleted(self, place: Place) -> bool:
        try:
            run = mlflow_client(self._uri).get_run(place.run_id)
        except MlflowException as error:
            return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")
        return bool(run.info.lifecycle_stage != "active")


def _say(client: MlflowClient, place: Place, record: Record) -> None:
    run_id = place.run_id
    match record["kind"]:
        case "summary":
            log_points(client, run_id, record, model_id=None)
        case "params":
            params = [Param(name, value) for name, value in record["values"].items()]
            for start in range(0, len(params), MAX_PARAMS):
                client.log_batch(run_id, params=params[start : start + MAX_PARAMS])
        case "tags":
            tags = [RunTag(name, linked(client, x)) for name, x in record["values"].items()]
            client.log_batch(run_id, tags=tags)
        case "text":
            client.log_text(run_id, record["text"], record["name"])
        case "file":
            client.log_artifact(run_id, record["path"], record["folder"])
        case "datasets":
            datasets = [_dataset_input(dataset) for dataset in record["datasets"]]
            client.log_inputs(run_id, datasets=datasets)
        case "parents":
            link_models(client, run_id, record["runs"])
        case "model":
            register_model(client, place, record)
        case "end":
            client.set_terminated(run_id, record["status"], end_time=record["time"])
            for twin in runs_of_journal(client, record["journal"]):
                if twin != run_id:
                    client.delete_run(twin)
            mend_links_to(client, run_id)
        case unknown:
            raise Refused(f"a record of kind {unknown!r}, which this version does not know")


def _log_metrics(client: MlflowClient, run_id: str, records: Sequence[Record]) -> None:
    metrics = [
        Metric(name, value, record["time"], record["step"])
        for record in records
        for name, value in record["values"].items()
    ]
    for start in range(0, len(metrics), MAX_BATCH_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + MAX_BATCH_METRICS])


def _experiment_id(client: MlflowClient, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return _experiment_id(client, name)
    if experiment.lifecycle_stage != "active":
        raise Gone(f"MLflow experiment {name!r} was deleted")
    return str(experiment.experiment_id)


def _is_local(run_id: str) -> bool:
    return run_id.startswith(LOCAL_PREFIX)


def _dataset_input(dataset: Mapping[str, Any]) -> DatasetInput:
    columns = [{"name": name, "type": kind} for name, kind in dataset["columns"]]
    profile = {"num_rows": dataset["rows"], "bytes": dataset["bytes"]}
    entity = TrackedDataset(
        name=dataset["name"],
        digest=dataset["sha256"][:DATASET_DIGEST_CHARACTERS],
        source_type="cas",
        source=json.dumps({"uri": dataset["uri"]}),
        schema=json.dumps({"mlflow_colspec": columns}) if columns else None,
        profile=json.dumps({key: x for key, x in profile.items() if x is not None}),
    )
    tags = {"mlflow.data.context": dataset["context"], "sha256": dataset["sha256"]}
    return DatasetInput(entity, [InputTag(key, value) for key, value in tags.items()])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
