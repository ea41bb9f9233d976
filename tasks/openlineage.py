"""Lineage as OpenLineage run events (https://openlineage.io, version 2-0-2 of the specification).

Each stage run is a START and a COMPLETE event with its inputs and its output as data sets; a data
set keeps its name from run to run and has the artifact's digest as its version.
"""

import json
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, UUID, uuid5

from rlhf_core.errors import StorageError
from tasks.lineage import Lineage, Node

VARIABLE = "RLHF_OPENLINEAGE"
"""File or http address that gets the events of every finished stage run, where it is set."""

NAMESPACE_VARIABLE = "OPENLINEAGE_NAMESPACE"
KEY_VARIABLE = "OPENLINEAGE_API_KEY"
"""OpenLineage's own names for the namespace of jobs and for the bearer token."""

TIMEOUT_SECONDS = 3.0

_SPECIFICATION = "https://openlineage.io/spec"
_CORE = f"{_SPECIFICATION}/2-0-2/OpenLineage.json#/$defs"
_HTTP_PATH = "/api/v1/lineage"
"""Where the specification has a server take events; for an address without a path."""

_HEX_ID = re.compile(r"[0-9a-f]{32}")

Event = dict[str, Any]


def lineage_events(lineage: Lineage) -> list[Event]:
    """The events of every stage run of a lineage whose artifact is here, inputs first."""
    return [event for node in lineage.in_order for event in stage_events(lineage, node)]


def stage_events(lineage: Lineage, node: Node) -> Iterator[Event]:
    """START and COMPLETE of the run that made one artifact; none where its past is not here."""
    if not node.provenance:
        return
    provenance = node.provenance
    producer = _producer(node)
    inputs = [_raw_input(source, producer) for source in node.sources]
    inputs += [_artifact(lineage.nodes[digest], producer, node) for digest in node.inputs.values()]
    output = _artifact(node, producer, node) | {
        "outputFacets": {
            "outputStatistics": _facet(
                producer,
                "1-0-2/OutputStatisticsOutputDatasetFacet",
                size=sum(file.size for file in node.files),
                fileCount=len(node.files),
            )
        }
    }
    common = {
        "run": {
            "runId": _run_id(provenance["runs"]["mlflow_run"]),
            "facets": _run_facets(node, producer),
        },
        "job": {
            "namespace": _namespace(),
            "name": f"{_recipe(node)}.{node.stage}",
            "facets": {
                "jobType": _facet(
                    producer,
                    "2-0-3/JobTypeJobFacet",
                    processingType="BATCH",
                    integration="RLHF",
                    jobType="TASK",
                )
            },
        },
        "inputs": inputs,
        "producer": producer,
        "schemaURL": f"{_CORE}/RunEvent",
    }
    started = provenance.get("started_at", provenance["ended_at"])
    yield {"eventType": "START", "eventTime": started, **common, "outputs": []}
    yield {
        "eventType": "COMPLETE",
        "eventTime": provenance["ended_at"],
        **common,
        "outputs": [output],
    }


def export_events(events: Iterable[Event], target: str) -> None:
    """The events are at the end of a file, or were taken by an OpenLineage server."""
    if target.startswith(("http://", "https://")):
        for event in events:
            _post(event, target)
        return
    lines = [json.dumps(event, ensure_ascii=False) + "\n" for event in events]
    path = Path(target).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))
    except OSError as error:
        raise StorageError(
            f"Lineage cannot be written to {target}: {error.strerror}. Name another file."
        ) from error


def export_stage(lineage: Lineage) -> None:
    """The events of the lineage's target go where RLHF_OPENLINEAGE says, if it is set.

    A file that cannot be written or a server that does not answer costs a line in the log and at
    most a few seconds, never the run.
    """
    target = os.environ.get(VARIABLE)
    if not target:
        return
    try:
        export_events(stage_events(lineage, lineage.nodes[lineage.target]), target)
    except StorageError as error:
        logging.getLogger(__name__).warning("%s The stage goes on; %s", error, _LATER)


_LATER = "`rlhf lineage DIGEST --openlineage TARGET` exports it later."


def _post(event: Event, target: str) -> None:
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(KEY_VARIABLE):
        headers["Authorization"] = f"Bearer {key}"
    host = "at the address given"
    try:
        parts = urlsplit(target)
        host = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
        address = target if parts.path.strip("/") else target.rstrip("/") + _HTTP_PATH
        request = urllib.request.Request(
            address, data=json.dumps(event).encode(), headers=headers, method="POST"
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
            pass
    except (OSError, ValueError, HTTPException) as error:
        # an error's own text may repeat the address with its password
        reason = error.code if isinstance(error, urllib.error.HTTPError) else type(error).__name__
        raise StorageError(
            f"The OpenLineage server {host} did not take the lineage ({reason})."
        ) from error


def _run_facets(node: Node, producer: str) -> dict[str, Any]:
    provenance = node.provenance
    facets = {
        "processing_engine": _facet(
            producer,
            "1-1-1/ProcessingEngineRunFacet",
            name="rlhf",
            version=str(provenance["code"]["package"]),
        ),
        "rlhf_stage": {
            "_producer": producer,
            "_schemaURL": f"{_CORE}/RunFacet",
            "digest": node.digest,
            **{
                name: provenance[name]
                for name in ("fingerprint", "code", "libraries", "machine", "runs", "metrics")
                if name in provenance
            },
        },
    }
    pipeline = provenance["runs"].get("mlflow_pipeline_run")
    if pipeline:
        facets["parent"] = _facet(
            producer,
            "1-1-0/ParentRunFacet",
            run={"runId": _run_id(pipeline)},
            job={"namespace": _namespace(), "name": _recipe(node)},
        )
    return facets


def _raw_input(source: Mapping[str, Any], producer: str) -> Event:
    """A raw file by name and SHA-256, or a hub data set by id and commit."""
    version = source.get("sha256") or source.get("commit") or "unknown"
    return _dataset(
        "https://huggingface.co/datasets" if source.get("hub") else "file",
        str(source["name"]),
        str(version),
        producer,
    )


def _artifact(node: Node, producer: str, child: Node) -> Event:
    recipe = _recipe(node if node.provenance else child)
    return _dataset(_namespace(), f"{recipe}/{node.stage}", node.digest, producer)


def _dataset(namespace: str, name: str, version: str, producer: str) -> Event:
    facet = _facet(producer, "1-0-1/DatasetVersionDatasetFacet", datasetVersion=version)
    return {"namespace": namespace, "name": name, "facets": {"version": facet}}


def _facet(producer: str, schema: str, **values: Any) -> dict[str, Any]:
    name = schema.partition("/")[2]
    url = f"{_SPECIFICATION}/facets/{schema}.json#/$defs/{name}"
    return {"_producer": producer, "_schemaURL": url, **values}


def _producer(node: Node) -> str:
    """A package URL with the version, and the commit where the code ran from a clone."""
    code = node.provenance["code"]
    commit = code.get("git_commit")
    qualifier = f"?vcs_commit={commit}" if commit else ""
    return f"pkg:generic/rlhf@{code['package']}{qualifier}"


def _namespace() -> str:
    return os.environ.get(NAMESPACE_VARIABLE) or "rlhf"


def _recipe(node: Node) -> str:
    return str(node.provenance.get("recipe") or "rlhf")


def _run_id(run_id: object) -> str:
    """The MLflow run id as the UUID that it is; another id as one made from it."""
    text = str(run_id)
    return str(UUID(text) if _HEX_ID.fullmatch(text) else uuid5(NAMESPACE_URL, text))
