"""All that is said to MLflow: runs, metrics, datasets and models, linked to each other.

The only module that imports mlflow. Each pipeline run is an MLflow run that holds one run per
stage; clients are told run ids, so that no hidden active run decides where a metric goes.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import (
    Dataset as TrackedDataset,
)
from mlflow.entities import (
    DatasetInput,
    InputTag,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Param,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.tracking import MlflowClient

from rlhf_core.artifacts import Artifact
from rlhf_core.settings.base import Stage
from tasks.datasets import Dataset
from tasks.handles import Handle
from tasks.pages import run_path

FLUSH_SECONDS = 1.0
"""Metrics go to MLflow in batches, about this far apart: a call costs tens of milliseconds."""

MAX_METRICS = 1000
MAX_PARAMS = 100
MAX_PARAM_CHARACTERS = 6000
MAX_TAG_CHARACTERS = 8000
DATASET_DIGEST_CHARACTERS = 32
"""MLflow takes at most 36; the whole SHA-256 stands in a tag."""

MODEL_TYPES: dict[Stage, str] = {
    "sft": "causal-lm",
    "reward_model": "reward-model",
    "ppo": "causal-lm",
}
"""Stages whose artifact is a model."""

CANDIDATE = "candidate"
"""Alias of the newest registered version."""


class TrackedRun:
    """An open MLflow run."""

    def __init__(self, client: MlflowClient, experiment_id: str, run_id: str) -> None:
        self.experiment_id = experiment_id
        self.run_id = run_id
        self._client = client
        self._waiting: list[Metric] = []
        self._last_flush = time.monotonic()
        self._last_step = 0

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take note of metrics; they reach MLflow within about a second, or at `flush`."""
        now = _milliseconds()
        self._waiting += [Metric(name, value, now, step) for name, value in metrics.items()]
        self._last_step = max(self._last_step, step)
        if time.monotonic() - self._last_flush >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Everything reported is in MLflow."""
        while self._waiting:
            self._client.log_batch(self.run_id, metrics=self._waiting[:MAX_METRICS])
            del self._waiting[:MAX_METRICS]
        self._last_flush = time.monotonic()

    def log_summary(self, metrics: Mapping[str, float], model_id: str | None = None) -> None:
        """Write what the run came to, at its last step; also on the page of the model it made."""
        step, now = self._last_step, _milliseconds()
        self._waiting += [
            Metric(name, value, now, step, model_id=model_id) for name, value in metrics.items()
        ]
        self.flush()

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        """Write every value as a param; one too long for MLflow as an artifact, never cut."""
        params = []
        for name, value in _flattened(settings):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            if len(text) > MAX_PARAM_CHARACTERS:
                self.log_text(f"settings/{name}.txt", text)
                text = f"see artifact settings/{name}.txt"
            params.append(Param(name, text))
        for start in range(0, len(params), MAX_PARAMS):
            self._client.log_batch(self.run_id, params=params[start : start + MAX_PARAMS])

    def log_text(self, name: str, text: str) -> None:
        """Write a text as an artifact of the run."""
        self._client.log_text(self.run_id, text, name)

    def log_json(self, name: str, value: object) -> None:
        """Write a value as a JSON artifact of the run."""
        self.log_text(name, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False))

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Copy a file to the run's artifacts."""
        self._client.log_artifact(self.run_id, str(path), folder)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set several tags at once."""
        self._client.log_batch(self.run_id, tags=_tags(tags))

    def describe(self, markdown: str) -> None:
        """Show this text above the run."""
        self._client.set_tag(self.run_id, "mlflow.note.content", markdown[:MAX_TAG_CHARACTERS])

    def use_datasets(self, datasets: Sequence[Dataset]) -> None:
        """List the tables and raw files as inputs of the run, known by content."""
        if datasets:
            self._client.log_inputs(self.run_id, datasets=[_dataset_input(d) for d in datasets])

    def use_models(self, parents: Mapping[str, Handle]) -> dict[str, str]:
        """Link the models that the parents made as inputs; returns each parent's page, by role."""
        pages, models = {}, []
        for role, parent in parents.items():
            run = self._client.get_run(parent.run_id)
            pages[role] = run_path(run.info.experiment_id, parent.run_id)
            outputs = run.outputs.model_outputs if run.outputs is not None else []
            models += [LoggedModelInput(output.model_id) for output in outputs]
        if models:
            self._client.log_inputs(self.run_id, models=models)
        return pages

    def register_model(
        self, artifact: Artifact, name: str, metrics: Mapping[str, float], description: str
    ) -> None:
        """Make the artifact a model with this run as its source, and the registry's candidate.

        The weights stay in the store; MLflow holds digest and address.
        """
        tags = {
            "stage": artifact.stage,
            "artifact.digest": artifact.digest,
            "artifact.uri": f"cas://sha256/{artifact.digest}",
            "artifact.path": str(artifact.path),
        }
        model = mlflow.create_external_model(
            name=artifact.stage,
            source_run_id=self.run_id,
            tags=tags,
            model_type=MODEL_TYPES[artifact.stage],
            experiment_id=self.experiment_id,
        )
        self.log_summary(metrics, model.model_id)
        self._client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, self._last_step)])
        self._make_registered_model(name)
        version = self._client.create_model_version(
            name,
            source=f"models:/{model.model_id}",
            run_id=self.run_id,
            model_id=model.model_id,
            tags=tags,
            description=description,
            await_creation_for=0,
        )
        self._client.set_registered_model_alias(name, CANDIDATE, version.version)

    def _make_registered_model(self, name: str) -> None:
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise


@contextmanager
def open_run(
    experiment: str, name: str, tags: Mapping[str, str], *, parent_run_id: str | None
) -> Iterator[TrackedRun]:
    """Open an MLflow run; it ends FINISHED, FAILED if the body raises, KILLED if interrupted."""
    client = MlflowClient()
    experiment_id = _experiment_id(client, experiment)
    all_tags = {**tags, "mlflow.user": "rlhf", "mlflow.source.name": "rlhf"}
    if parent_run_id is not None:
        all_tags["mlflow.parentRunId"] = parent_run_id
    run = client.create_run(experiment_id, tags=all_tags, run_name=name)
    tracked = TrackedRun(client, experiment_id, run.info.run_id)
    try:
        yield tracked
    except BaseException as error:
        tracked.flush()
        tracked.set_tags({"failure": f"{type(error).__name__}: {error}"[:MAX_TAG_CHARACTERS]})
        client.set_terminated(tracked.run_id, _end_status(error))
        raise
    tracked.flush()
    client.set_terminated(tracked.run_id, "FINISHED")


def run_digest(run_id: str) -> str | None:
    """Digest of the artifact that an MLflow run made, or None where MLflow knows no such run."""
    try:
        tags: dict[str, str] = MlflowClient().get_run(run_id).data.tags
    except MlflowException:
        return None
    return tags.get("artifact.digest")


def registered_digest(name: str) -> str | None:
    """Digest of a registered model version named `model@alias` or `model/version`."""
    model, _, alias = name.partition("@")
    try:
        if alias:
            version = MlflowClient().get_model_version_by_alias(model, alias)
        else:
            version = MlflowClient().get_model_version(*name.rsplit("/", 1))
    except MlflowException:
        return None
    tags: dict[str, str] = version.tags
    return tags.get("artifact.digest")


def _milliseconds() -> int:
    return int(time.time() * 1000)


def _end_status(error: BaseException) -> str:
    return "FAILED" if isinstance(error, Exception) else "KILLED"


def _experiment_id(client: MlflowClient, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    return str(client.create_experiment(name))


def _dataset_input(dataset: Dataset) -> DatasetInput:
    columns = [{"name": name, "type": kind} for name, kind in dataset.columns]
    profile = {"num_rows": dataset.rows, "bytes": dataset.bytes}
    entity = TrackedDataset(
        name=dataset.name,
        digest=dataset.sha256[:DATASET_DIGEST_CHARACTERS],
        source_type="cas",
        source=json.dumps({"uri": dataset.uri}),
        schema=json.dumps({"mlflow_colspec": columns}) if columns else None,
        profile=json.dumps({key: x for key, x in profile.items() if x is not None}),
    )
    tags = {"mlflow.data.context": dataset.context, "sha256": dataset.sha256}
    return DatasetInput(entity, [InputTag(key, value) for key, value in tags.items()])


def _tags(tags: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(key, value) for key, value in tags.items()]


def _flattened(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf with its dotted name: `ppo.kl_coef`."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
