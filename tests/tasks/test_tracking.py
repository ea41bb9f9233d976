"""No server that is down, slow or wrong holds up a run, and afterwards MLflow has all of it."""

import contextlib
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from rlhf_core.artifacts import publish_artifact
from tasks.handles import Handle
from tasks.leftovers import PIPELINES, ship_leftovers
from tasks.run_journal import LOCAL_PREFIX
from tasks.tracking import open_run
from tests.tasks.killed_run import killed_run

LONGEST_STEP_SECONDS = 1.0
FAULTS = ("reset", "hang", "429", "500", "lost", "half")


@pytest.fixture
def client(mlflow_address):
    from mlflow import MlflowClient

    return MlflowClient(mlflow_address)


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / "store"


@contextlib.contextmanager
def opened(store, name="sft", experiment=None, parent=None):
    journal = store / (f"work/{name}/journal" if name != "pipeline" else f"{PIPELINES}/flow")
    experiment = experiment or f"tracking-{uuid.uuid4().hex}"
    with open_run(experiment, name, {"stage": name}, parent_run_id=parent, journal=journal) as run:
        yield run


def report_quickly(run, steps) -> None:
    for step in steps:
        started = time.monotonic()
        run.report(step, {"loss": 1 / step, "noise": math.nan if step % 2 else step})
        run.sync()
        assert time.monotonic() - started < LONGEST_STEP_SECONDS
        time.sleep(0.01)


def series(client, run_id, name="loss"):
    return [(point.step, point.value) for point in client.get_metric_history(run_id, name)]


def expected(steps):
    return [(step, 1 / step) for step in steps]


def made_runs(client):
    """Every run of every experiment of these tests, by the name of its journal."""
    experiments = [found.experiment_id for found in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=1000)
    return {run.info.run_id: run.data.tags["journal.id"] for run in runs}


@pytest.mark.parametrize("fault", FAULTS)
def test_after_an_outage_mlflow_has_each_step_once(fault, store, proxy, client, caplog):
    with opened(store) as run:
        report_quickly(run, range(1, 20))
        proxy.mode = fault
        report_quickly(run, range(20, 60))
        run.set_tags({"told": "during the outage"})
        run.log_text("notes/outage.txt", "it was dark")
        until = time.monotonic() + 30
        while "out of reach" not in caplog.text and time.monotonic() < until:
            time.sleep(0.05)
        proxy.mode = "pass"
        report_quickly(run, range(60, 70))

    assert caplog.text.count("out of reach") == 1
    assert "answers again" in caplog.text
    assert series(client, run.run_id) == expected(range(1, 70))
    noise = dict(series(client, run.run_id, "noise"))
    assert [step for step, value in noise.items() if not math.isnan(value)] == [*range(2, 70, 2)]
    tracked = client.get_run(run.run_id)
    assert tracked.info.status == "FINISHED"
    assert tracked.data.tags["told"] == "during the outage"
    assert [item.path for item in client.list_artifacts(run.run_id, "notes")] == [
        "notes/outage.txt"
    ]
    assert not store.joinpath("work", "sft").exists()


@pytest.mark.parametrize("fault", ["reset", "lost"])
def test_a_run_that_begins_and_ends_without_mlflow_is_sent_by_the_next_start(
    fault, store, proxy, client, monkeypatch, caplog
):
    monkeypatch.setattr("tasks.tracking.END_SECONDS", 0.5)
    proxy.mode = fault
    with (
        opened(store, "pipeline") as pipeline,
        opened(store, "sft", parent=pipeline.run_id) as run,
    ):
        report_quickly(run, range(1, 30))
        run.describe(f"Part of [the pipeline](#/runs/{pipeline.run_id})")
    assert run.run_id.startswith(LOCAL_PREFIX)
    assert "the rest is sent when MLflow answers" in caplog.text

    assert ship_leftovers(store) > 0
    proxy.mode = "pass"
    while ship_leftovers(store):
        pass

    ids = {journal: run_id for run_id, journal in made_runs(client).items()}
    stage_id = ids[run.run_id.removeprefix(LOCAL_PREFIX)]
    pipeline_id = ids[pipeline.run_id.removeprefix(LOCAL_PREFIX)]
    assert len(ids) == len(made_runs(client))  # no run was made twice
    assert series(client, stage_id) == expected(range(1, 30))
    stage = client.get_run(stage_id)
    assert stage.info.status == "FINISHED"
    assert stage.data.tags["mlflow.parentRunId"] == pipeline_id
    assert f"/runs/{pipeline_id}?workflowType" in stage.data.tags["mlflow.note.content"]
    assert [*store.glob("work/*"), *store.glob(f"{PIPELINES}/*")] == []


def test_a_killed_run_goes_on_where_its_checkpoint_was(store, proxy, client):
    killed = killed_run(store, last_step=50)

    with opened(store, "sft-f", experiment="killed", parent=killed[0]) as run:
        assert run.run_id == killed[1]
        report_quickly(run, range(31, 81))

    assert series(client, run.run_id) == expected(range(1, 81))
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_a_failed_run_says_why_until_it_goes_on(store, proxy, client):
    run = fail_a_run(store)
    failed = client.get_run(run.run_id)
    assert (failed.info.status, failed.data.tags["failure"]) == ("FAILED", "ValueError: odd")

    with opened(store, experiment="failed") as again:
        report_quickly(again, [1, 2])
        await_status(client, run.run_id, "RUNNING")
    assert again.run_id == run.run_id
    ended = client.get_run(run.run_id)
    assert ended.info.status == "FINISHED"
    assert "failure" not in ended.data.tags


def test_a_model_is_registered_once_however_often_the_answer_is_lost(
    store, proxy, client, tmp_path
):
    name = f"model-{uuid.uuid4().hex}"
    experiment = f"tracking-{name}"
    staged = tmp_path / "staged"
    staged.mkdir()
    (staged / "model.safetensors").write_bytes(b"weights")
    artifact = publish_artifact(staged, tmp_path / "objects", stage="sft", provenance={})

    with opened(store, "sft", experiment) as sft:
        report_quickly(sft, [1, 2])
        for _ in range(2):  # as after a kill between the commit and the end of the run
            sft.register_model(artifact, name, {"loss": 0.5, "accuracy": 0.75}, "A model.")
        shake(proxy)
    with opened(store, "ppo", experiment) as ppo:
        parents = {"sft": Handle("sft", artifact.path, artifact.digest, sft.run_id)}
        assert ppo.use_models(parents) == {"sft": f"#/runs/{sft.run_id}"}
        ppo.use_models(parents)
        shake(proxy)

    (model,) = client.search_logged_models([client.get_run(sft.run_id).info.experiment_id])
    assert model.source_run_id == sft.run_id
    assert {metric.key: metric.value for metric in model.metrics} == {"loss": 0.5, "accuracy": 0.75}
    (version,) = client.search_model_versions(f"name = '{name}'")
    assert client.get_model_version_by_alias(name, "candidate").version == version.version
    outputs = client.get_run(sft.run_id).outputs.model_outputs
    assert [output.model_id for output in outputs] == [model.model_id]
    inputs = client.get_run(ppo.run_id).inputs.model_inputs
    assert [model.model_id for model in inputs] == [model.model_id]
    assert series(client, sft.run_id, "accuracy") == [(2, 0.75)]


def test_a_run_deleted_on_the_way_goes_on_and_is_whole_once_restored(store, proxy, client, caplog):
    with opened(store) as run:
        report_quickly(run, range(1, 10))
        experiment = client.get_run(run.run_id).info.experiment_id
        client.delete_experiment(experiment)
        report_quickly(run, range(10, 30))
    assert f"MLflow run {run.run_id} was deleted" in caplog.text
    assert "journal" in caplog.text

    client.restore_experiment(experiment)
    assert ship_leftovers(store) == 0
    assert series(client, run.run_id) == expected(range(1, 30))
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_what_mlflow_refuses_is_kept_and_the_rest_arrives(store, proxy, client, caplog):
    with opened(store) as run:
        run.report(1, {"loss": 1.0})
        run.report(1, {"no\x00name": 1.0})
        run.report(2, {"loss": 0.5})

    assert series(client, run.run_id) == expected([1, 2])
    (kept,) = store.glob("work/sft/journal/*.refused.jsonl")
    assert "no\\u0000name" in kept.read_text()
    assert str(kept) in caplog.text


def test_a_locked_sqlite_file_holds_up_nothing(store, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    from mlflow import MlflowClient

    with opened(store) as run:
        report_quickly(run, range(1, 10))
        outside = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None, timeout=30)
        outside.execute("BEGIN EXCLUSIVE")
        report_quickly(run, range(10, 100))
        time.sleep(2)
        outside.execute("ROLLBACK")
        outside.close()

    assert series(MlflowClient(), run.run_id) == expected(range(1, 100))


EIGHT_OPENERS = """
import multiprocessing, sys
from pathlib import Path
import tasks.mlflow_sender  # once: each process would take seconds to load it
from tasks.tracking import open_run
from tests.tasks.killed_run import killed_run

def open_one(number):
    journal = Path(sys.argv[1]) / str(number)
    with open_run("e", "n", {}, parent_run_id=None, journal=journal) as run:
        run.report(1, {"loss": 1.0})
    return run.run_id

with multiprocessing.get_context("fork").Pool(8) as pool:
    print(*pool.map(open_one, range(8), chunksize=1))
"""


def test_eight_processes_open_a_fresh_sqlite_file_at_once(tmp_path):
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'fresh.db'}"}
    opened = subprocess.run(
        [sys.executable, "-c", EIGHT_OPENERS, str(tmp_path / "journals")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    ids = opened.stdout.split()

    assert len(set(ids)) == 8
    assert [run_id for run_id in ids if run_id.startswith(LOCAL_PREFIX)] == []
    with contextlib.closing(sqlite3.connect(tmp_path / "fresh.db")) as database:
        rows = database.execute("select run_uuid, status from runs").fetchall()
    assert sorted(rows) == sorted((run_id, "FINISHED") for run_id in ids)


KILLED_WHILE_TABLES_ARE_MADE = """
import os, signal, sys
import sqlalchemy
from tasks.mlflow_store import mlflow_client

tables = iter(range(12))

@sqlalchemy.event.listens_for(sqlalchemy.engine.Engine, "before_cursor_execute")
def die(connection, cursor, statement, *_):
    if "CREATE TABLE" in statement and next(tables, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)

mlflow_client(sys.argv[1])
"""


def test_a_kill_while_the_tables_are_made_spoils_no_store(tmp_path):
    uri = f"sqlite:///{tmp_path / 'fresh.db'}"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_TABLES_ARE_MADE, uri], timeout=240, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    from tasks.mlflow_store import mlflow_client

    client = mlflow_client(uri)
    run = client.create_run(client.create_experiment("after"))
    client.log_metric(run.info.run_id, "loss", 0.5)
    assert client.get_run(run.info.run_id).data.metrics == {"loss": 0.5}
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"fresh.db", "locks"}


def fail_a_run(store):
    with contextlib.suppress(ValueError), opened(store, experiment="failed") as run:
        report_quickly(run, [1])
        raise ValueError("odd")
    return run


def await_status(client, run_id, status) -> None:
    until = time.monotonic() + 10
    while client.get_run(run_id).info.status != status:
        assert time.monotonic() < until, f"the run is not {status}"
        time.sleep(0.05)


def shake(proxy) -> None:
    """Every second call's answer is lost for a while."""
    until = time.monotonic() + 3
    while time.monotonic() < until:
        proxy.mode = "lost"
        time.sleep(0.05)
        proxy.mode = "pass"
        time.sleep(0.05)
