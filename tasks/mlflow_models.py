"""Models in MLflow: what a run made and used, linked and registered once, however often it is said.

MLflow would make each model, version and link anew: they are looked for first.
"""

import re
from collections.abc import Sequence

import mlflow
from mlflow.entities import (
    LoggedModel,
    LoggedModelInput,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Run,
)
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tasks.journal import Record
from tasks.mlflow_store import run_if_there, runs_with_tag
from tasks.pages import run_path
from tasks.shipper import Place

CANDIDATE = "candidate"
"""Alias of the newest registered version."""

PARENT_TAG = "mlflow.parentRunId"
DESCRIPTION_TAG = "mlflow.note.content"
MAX_TAG_CHARACTERS = 8000
_RUN_LINK = re.compile(r"#/runs/([\w-]+)")


def link_models(client: MlflowClient, run_id: str, parents: Sequence[str]) -> None:
    """The models that the parents made are inputs of the run."""
    inputs = client.get_run(run_id).inputs
    linked = {model.model_id for model in inputs.model_inputs} if inputs else set()
    for parent in parents:
        run = run_if_there(client, parent)
        models = _models_made_by(run) if run else []
        new = [LoggedModelInput(model) for model in models if model not in linked]
        if new:
            client.log_inputs(run_id, models=new)


def register_model(client: MlflowClient, place: Place, record: Record) -> None:
    """The artifact is a model with this run as its source, and the registry's candidate."""
    model = _external_model(client, place, record)
    log_points(client, place.run_id, record, model_id=model.model_id)
    if model.model_id not in _models_made_by(client.get_run(place.run_id)):
        output = LoggedModelOutput(model.model_id, record["step"])
        client.log_outputs(place.run_id, [output])
    name, source = record["name"], f"models:/{model.model_id}"
    _make_registered_model(client, name)
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{place.run_id}'")
    numbers = [version.version for version in versions if version.source == source]
    if not numbers:
        version = client.create_model_version(
            name,
            source=source,
            run_id=place.run_id,
            model_id=model.model_id,
            tags=record["tags"],
            description=linked(client, record["description"]),
            await_creation_for=0,
        )
        numbers = [version.version]
    client.set_registered_model_alias(name, CANDIDATE, numbers[0])


def _models_made_by(run: Run) -> list[str]:
    return [output.model_id for output in run.outputs.model_outputs] if run.outputs else []


def _external_model(client: MlflowClient, place: Place, record: Record) -> LoggedModel:
    digest = record["tags"]["artifact.digest"]
    for model in client.search_logged_models(
        [place.experiment_id], filter_string=f"source_run_id = '{place.run_id}'"
    ):
        if model.tags.get("artifact.digest") == digest:
            if model.status == LoggedModelStatus.READY:
                return model
            client.delete_logged_model(model.model_id)  # its making was cut short
    return mlflow.create_external_model(
        name=record["stage"],
        source_run_id=place.run_id,
        tags=record["tags"],
        model_type=record["model_type"],
        experiment_id=place.experiment_id,
    )


def _make_registered_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def log_points(client: MlflowClient, run_id: str, record: Record, *, model_id: str | None) -> None:
    """What the run came to is on its page, and on the page of the model if there is one."""
    step = record["step"]
    metrics = [Metric(name, x, when, step, model_id=model_id) for name, x, when in record["points"]]
    client.log_batch(run_id, metrics=metrics)


def linked(client: MlflowClient, text: str) -> str:
    """The text with the whole path in place of each `#/runs/<id>`, which knows no experiment."""

    def whole(link: re.Match[str]) -> str:
        run = run_if_there(client, link[1])
        return run_path(run.info.experiment_id, run.info.run_id) if run else link[0]

    return _RUN_LINK.sub(whole, text)[:MAX_TAG_CHARACTERS]


def mend_links_to(client: MlflowClient, run_id: str) -> None:
    """What MLflow had before the run links to it: its parent's page, and the users of its model."""
    run = client.get_run(run_id)
    parent_id = run.data.tags.get(PARENT_TAG)
    parent = run_if_there(client, parent_id) if parent_id else None
    text = parent.data.tags.get(DESCRIPTION_TAG, "") if parent else ""
    mended = linked(client, text)
    if parent_id and mended != text:
        client.set_tag(parent_id, DESCRIPTION_TAG, mended)
    if _models_made_by(run):
        users = f"parent.{run.data.tags['stage']}.run_id"
        for user in runs_with_tag(client, users, run_id):
            link_models(client, user, [run_id])
