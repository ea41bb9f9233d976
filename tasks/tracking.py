"""All that is said of a run: metrics, settings, datasets, models, and how it ended.

It is said to a journal, which a thread brings to MLflow: no server that is down or slow holds up
or ends a stage, and what MLflow missed it gets later. A resumed stage continues its run.
"""

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf_core.artifacts import Artifact
from rlhf_core.settings.base import Stage
from rlhf_core.stopping import PROCESS
from tasks.datasets import Dataset
from tasks.environment import mlflow_pages
from tasks.handles import Handle
from tasks.leaves import leaf_text, leaves
from tasks.leftovers import mlflow_sender, remove_journal
from tasks.pages import run_path
from tasks.run_journal import FINISHED, LOCAL_PREFIX, RunJournal, open_journal
from tasks.shipper import (
    Place,
    Shipper,
    server_name,
)

MAX_PARAM_CHARACTERS = 6000
MAX_FAILURE_CHARACTERS = 2000

MODEL_TYPES: dict[Stage, str] = {
    "sft": "causal-lm",
    "reward_model": "reward-model",
    "ppo": "causal-lm",
}
"""Stages whose artifact is a model."""

OPEN_SECONDS = 15.0
OPEN_FILE_SECONDS = 120.0
"""How long a run waits to learn its MLflow id: a SQLite file may first have to be made, by
several processes in turn."""

OPEN_FAULTS = 3
"""Faults after which a run begins without MLflow."""

OPEN_AGAIN_SECONDS = 2.0
"""The same for a stage, where MLflow was already out of reach when its pipeline run began."""

END_SECONDS = 20.0
STOP_SECONDS = 3.0
"""How long a run that ends waits until MLflow has all of it; less where a signal ends it."""

END_FAULTS = 5
"""Faults after which it no longer waits."""

_log = logging.getLogger(__name__)


class TrackedRun:
    """An open run. Nothing here waits for MLflow, or fails where MLflow does."""

    def __init__(self, journal: RunJournal, shipper: Shipper, place: Place | None) -> None:
        self._journal = journal
        self._shipper = shipper
        self._place = place
        self.run_id = place.run_id if place else LOCAL_PREFIX + journal.name
        """MLflow's id of the run; where MLflow was out of reach, the name of the journal."""

    @property
    def experiment_id(self) -> str | None:
        """MLflow's id of the experiment; None where MLflow was out of reach."""
        return self._place.experiment_id if self._place else None

    @property
    def last_step(self) -> int:
        """The last step that was reported, before a kill too; 0 where none was."""
        return self._journal.last_step

    @property
    def path(self) -> str:
        """Where MLflow shows the run, below the address of its pages."""
        if self._place is None:
            return f"#/runs/{self.run_id}"
        return run_path(self._place.experiment_id, self._place.run_id)

    @property
    def url(self) -> str:
        """The whole address of the run's page in MLflow."""
        return f"{mlflow_pages()}/{self.path}"

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take note of metrics, but those of steps that the run had before it was killed."""
        self._journal.report(step, metrics)

    def sync(self) -> None:
        """All that was said outlives a power cut, and leaves for MLflow."""
        self._journal.sync()
        self._shipper.wake()

    def log_summary(self, metrics: Mapping[str, float]) -> None:
        """Write what the run came to, at its last step."""
        points = self._journal.summary(metrics)
        if points:
            self._say("summary", step=self._journal.last_step, points=points)

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        """Write every value as a param; one too long for MLflow as an artifact, never cut."""
        params = {}
        for name, value in leaves(settings):
            text = leaf_text(value)
            if len(text) > MAX_PARAM_CHARACTERS:
                self.log_text(f"settings/{name}.txt", text)
                text = f"see artifact settings/{name}.txt"
            params[name] = text
        self._journal.params(params)
        self._shipper.wake()

    def log_text(self, name: str, text: str) -> None:
        """Write a text as an artifact of the run."""
        self._say("text", name=name, text=text)

    def log_json(self, name: str, value: object) -> None:
        """Write a value as a JSON artifact of the run."""
        self.log_text(name, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False))

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Copy a file, which must stay where it is, to the run's artifacts."""
        self._say("file", path=str(path), folder=folder)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set several tags at once."""
        self._say("tags", values=dict(tags))

    def describe(self, markdown: str) -> None:
        """Show this text above the run; a link to `#/runs/<id>` becomes the whole path."""
        self.set_tags({"mlflow.note.content": markdown})

    def use_datasets(self, datasets: Sequence[Dataset]) -> None:
        """List the tables and raw files as inputs of the run, known by content."""
        if datasets:
            self._say("datasets", datasets=[asdict(dataset) for dataset in datasets])

    def use_models(self, parents: Mapping[str, Handle]) -> dict[str, str]:
        """Link the models that the parents made as inputs; returns each parent's page, by role."""
        if parents:
            self._say("parents", runs=[parent.run_id for parent in parents.values()])
        return {role: f"#/runs/{parent.run_id}" for role, parent in parents.items()}

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
        self._say(
            "model",
            name=name,
            stage=artifact.stage,
            model_type=MODEL_TYPES[artifact.stage],
            tags=tags,
            description=description,
            step=self._journal.last_step,
            points=self._journal.summary(metrics),
        )

    def _say(self, kind: str, **facts: Any) -> None:
        self._journal.say(kind, **facts)
        self._shipper.wake()


@contextmanager
def open_run(
    experiment: str, name: str, tags: Mapping[str, str], *, parent_run_id: str | None, journal: Path
) -> Iterator[TrackedRun]:
    """Open a run; it ends FINISHED, FAILED if the body raises, KILLED if interrupted.

    `journal` is the folder that holds the run's journal. A run there that did not finish goes on.
    """
    uri = os.environ["MLFLOW_TRACKING_URI"]
    send = mlflow_sender(uri, tries=math.inf)
    book = open_journal(journal)
    if book.cut:
        _log.warning(
            "%s ends in %d bytes that are no whole record, torn or damaged: they are cut",
            book.path,
            book.cut,
        )
    book.open(experiment, name, tags, parent_run_id)
    shipper = Shipper(book, server_name(uri), send)
    seconds = _patience_to_open(uri, parent_run_id)
    status, patience = FINISHED, END_SECONDS
    tags_at_end: dict[str, str] = {}
    try:
        yield TrackedRun(book, shipper, shipper.await_place(seconds, OPEN_FAULTS))
    except BaseException as error:
        ended = PROCESS.has_ended(error)
        status, patience = ("KILLED", STOP_SECONDS) if ended else ("FAILED", END_SECONDS)
        failure = f"{type(error).__name__}: {PROCESS.reason(error)}"
        tags_at_end = {"failure": failure[:MAX_FAILURE_CHARACTERS]}
        raise
    finally:
        _end(book, status, tags_at_end)
        _close(book, shipper, patience)


def _patience_to_open(uri: str, parent_run_id: str | None) -> float:
    if not uri.startswith("http"):
        return OPEN_FILE_SECONDS
    without = parent_run_id is not None and parent_run_id.startswith(LOCAL_PREFIX)
    return OPEN_AGAIN_SECONDS if without else OPEN_SECONDS


def _end(book: RunJournal, status: str, tags: Mapping[str, str]) -> None:
    """The journal says how the run ended, where the disk lets it."""
    try:
        book.end_run(status, tags)
    except OSError as error:
        _log.warning("%s cannot be written (%s): the run's end is lost", book.path, error.strerror)


def _close(book: RunJournal, shipper: Shipper, seconds: float) -> None:
    shipped = shipper.finish(seconds, END_FAULTS)
    if shipped and book.status == FINISHED:
        remove_journal(book.path)
    elif not shipped:
        _log.warning(
            "MLflow does not have all of this run; the rest is sent when MLflow answers, by the "
            "next start of rlhf at the latest"
        )
    book.close()
