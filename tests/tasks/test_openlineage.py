"""Lineage as OpenLineage events: in a file, at a server, and never at the price of a run."""

import json
import logging
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import UUID

import pytest

from rlhf_core.errors import StorageError
from tasks.lineage import trace
from tasks.openlineage import export_events, export_stage, lineage_events
from tests.tasks.small_artifacts import make_chain


class Server(ThreadingHTTPServer):
    """Takes events, or answers as it is told."""

    status = 201
    wait_seconds = 0.0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.taken: list[tuple[str, dict, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.server.wait_seconds)
        self.server.taken.append((self.path, json.loads(body), self.headers["Authorization"]))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()


@pytest.fixture(scope="module")
def lineage(tmp_path_factory):
    chain = make_chain(tmp_path_factory.mktemp("events"))
    return trace(chain.digest("ppo"), chain.store)


def stage_of(event):
    return event["job"]["name"].partition(".")[2]


def test_each_stage_run_starts_and_completes_with_its_inputs_and_output(lineage):
    events = lineage_events(lineage)

    assert [(stage_of(event), event["eventType"]) for event in events] == [
        (stage, kind)
        for stage in ("data", "sft", "reward_model", "ppo")
        for kind in ("START", "COMPLETE")
    ]
    made = {node.stage: node.digest for node in lineage.nodes.values()}
    ppo = events[-1]
    assert {
        item["name"]: item["facets"]["version"]["datasetVersion"] for item in ppo["inputs"]
    } == {f"small/{stage}": made[stage] for stage in ("data", "sft", "reward_model")}
    assert ppo["outputs"][0]["name"] == "small/ppo"
    assert ppo["outputs"][0]["facets"]["version"]["datasetVersion"] == made["ppo"]
    assert ppo["outputs"][0]["outputFacets"]["outputStatistics"]["fileCount"] == 1
    raw = {item["name"]: item for item in events[1]["inputs"]}
    assert raw["demos.jsonl"]["namespace"] == "file"
    assert len(raw["demos.jsonl"]["facets"]["version"]["datasetVersion"]) == 64


def test_events_have_what_the_specification_requires(lineage):
    for event in lineage_events(lineage):
        assert (
            event["schemaURL"]
            == "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
        )
        assert event["producer"].startswith("pkg:generic/rlhf@")
        assert str(UUID(event["run"]["runId"])) == event["run"]["runId"]
        assert event["run"]["facets"]["parent"]["job"] == {"namespace": "rlhf", "name": "small"}
        datasets = [*event["inputs"], *event["outputs"]]
        facets = [
            *event["run"]["facets"].values(),
            *event["job"]["facets"].values(),
            *(facet for item in datasets for facet in item["facets"].values()),
        ]
        for facet in facets:
            assert facet["_producer"] == event["producer"]
            assert facet["_schemaURL"].startswith("https://openlineage.io/spec/")


def test_a_file_gets_one_line_per_event_and_keeps_what_it_held(lineage, tmp_path):
    path = tmp_path / "new folder" / "events ü.jsonl"

    export_events(lineage_events(lineage), str(path))
    export_events(lineage_events(lineage), str(path))

    lines = path.read_text().splitlines()
    assert len(lines) == 16
    assert json.loads(lines[0]) == lineage_events(lineage)[0]


def test_a_server_gets_every_event_at_the_path_of_the_specification(lineage, server, monkeypatch):
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "key")

    export_events(lineage_events(lineage), server.address)

    assert [event for _, event, _ in server.taken] == lineage_events(lineage)
    assert {path for path, _, _ in server.taken} == {"/api/v1/lineage"}
    assert {key for _, _, key in server.taken} == {"Bearer key"}


def test_a_finished_stage_is_exported_where_the_variable_says(lineage, server, monkeypatch):
    monkeypatch.setenv("RLHF_OPENLINEAGE", f"{server.address}/own/path")

    export_stage(lineage)

    assert [(path, stage_of(event)) for path, event, _ in server.taken] == [
        ("/own/path", "ppo"), ("/own/path", "ppo")
    ]  # fmt: skip


@pytest.mark.parametrize("fault", ["refused", "error 500", "hangs", "not an address", "a folder"])
def test_an_export_that_fails_is_one_warning_and_a_few_seconds(
    lineage, server, monkeypatch, caplog, tmp_path, fault
):
    target = server.address
    if fault == "error 500":
        server.status = 500
    elif fault == "hangs":
        server.wait_seconds = 1.5
        monkeypatch.setattr("tasks.openlineage.TIMEOUT_SECONDS", 0.3)
    elif fault == "refused":
        target = "http://127.0.0.1:9"
    elif fault == "not an address":
        target = "http://user:secret@[bad"
    elif fault == "a folder":
        target = str(tmp_path)
    monkeypatch.setenv("RLHF_OPENLINEAGE", target)
    began = time.monotonic()

    with caplog.at_level(logging.WARNING):
        export_stage(lineage)

    assert time.monotonic() - began < 1.5
    assert len(caplog.records) == 1
    assert "secret" not in caplog.text
    with pytest.raises(StorageError):
        export_events(lineage_events(lineage), target)


def test_without_the_variable_nothing_is_exported(lineage, server, monkeypatch):
    monkeypatch.delenv("RLHF_OPENLINEAGE", raising=False)
    export_stage(lineage)
    assert server.taken == []
