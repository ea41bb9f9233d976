"""What a killed process left running is ended; what runs is never touched."""

import time
from dataclasses import replace
from uuid import UUID

import pytest

from rlhf_core.errors import UserError
from tasks.heartbeat import HEARTBEAT_VARIABLE, beating, heartbeat_seconds, owners, write_owner
from tasks.leftovers import PIPELINES
from tasks.locks import this_process
from tasks.reaper import end_dead_runs, reap, report_crashes
from tasks.run_journal import open_journal
from tasks.store import Store
from tests.tasks.killed_run import killed_run

NO_PREFECT = (None, None, 0)


def beat(store, **changes):
    """The record of a run of this process, changed as told."""
    with beating(
        store, stage="sft", run_id="r", journal=store / "work/sft-f/journal", prefect=NO_PREFECT
    ):
        ((path, owner),) = owners(store)
    write_owner(path, replace(owner, **changes))
    return path


def dead_process():
    return replace(this_process(), started_ticks=1)  # our number, given to another before us


def test_a_killed_run_ends_everywhere(tmp_path, mlflow_address, monkeypatch, caplog):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_address)
    store = tmp_path / "store"
    pipeline_id, stage_id = killed_run(store, last_step=5)
    client = MlflowClient()
    assert client.get_run(stage_id).info.status == "RUNNING"

    assert {owner.stage for owner in reap(store)} == {None, "sft"}

    record = Store(store).read_run(pipeline_id)
    assert (record["state"], record["stages"]["sft"]["state"]) == ("crashed", "crashed")
    assert "ended without a word" in record["failure"]
    stage, pipeline = client.get_run(stage_id), client.get_run(pipeline_id)
    assert (stage.info.status, pipeline.info.status) == ("FAILED", "KILLED")
    assert "ended without a word" in stage.data.tags["orphan.reason"]
    assert pipeline.data.tags["orphan.reason"] == record["failure"]
    assert [point.step for point in client.get_metric_history(stage_id, "loss")] == [1, 2, 3, 4, 5]
    assert list(owners(store)) == []
    assert f"stage sft of run {pipeline_id} was killed" in caplog.text
    assert reap(store) == []


def test_a_running_process_is_never_touched(tmp_path):
    store = tmp_path / "store"
    with beating(
        store, stage=None, run_id="r", journal=store / PIPELINES / "flow", prefect=NO_PREFECT
    ):
        ((path, owner),) = owners(store)
        write_owner(path, replace(owner, beat=0.0))  # it lives, however long it did not beat
        assert reap(store) == []
        assert path.exists()
    assert not path.exists()


def test_a_number_that_another_process_has_now_is_no_sign_of_life(tmp_path):
    path = beat(tmp_path, process=dead_process())

    (reaped,) = reap(tmp_path)

    assert reaped.stage == "sft"
    assert not path.exists()


def test_another_host_is_believed_for_three_beats(tmp_path):
    elsewhere = replace(this_process(), host="elsewhere", boot_id="b")
    path = beat(tmp_path, process=elsewhere, interval=10.0, beat=time.time() - 25)
    assert reap(tmp_path) == []

    path.unlink()
    beat(tmp_path, process=elsewhere, interval=10.0, beat=time.time() - 31)
    assert len(reap(tmp_path)) == 1


def test_a_container_of_the_same_name_is_believed_while_it_beats(tmp_path):
    path = beat(tmp_path, process=dead_process(), pid_namespace="pid:[1]")
    assert reap(tmp_path) == []
    assert path.exists()


def test_a_process_from_before_the_host_started_is_gone(tmp_path):
    beat(tmp_path, process=replace(this_process(), boot_id="before"))
    assert len(reap(tmp_path)) == 1


def test_a_run_that_another_process_goes_on_with_is_left_to_it(tmp_path):
    journal = open_journal(tmp_path / "work/sft-f/journal")
    journal.open("e", "sft", {}, None)
    beat(tmp_path, process=dead_process())

    assert len(reap(tmp_path)) == 1
    assert journal.status is None
    journal.close()
    assert open_journal(tmp_path / "work/sft-f/journal").status is None


def test_a_process_that_the_kernel_killed_for_its_memory_is_told_as_such(tmp_path, caplog):
    events = tmp_path / "memory.events"
    events.write_text("oom_kill 4\n")
    memory = {"used": 7, "limit": 8, "cgroup": str(tmp_path)}
    memory |= {"cgroup_kills": 3, "machine_kills": None}
    journal = open_journal(tmp_path / "work/sft-f/journal")
    journal.report(12, {"loss": 1.0})
    journal.close()
    beat(tmp_path, process=dead_process(), memory=memory)

    (owner,) = end_dead_runs(tmp_path)

    assert "in stage sft after step 12" in str(owner.reaped)
    assert f"Out of memory: the kernel killed a process of its memory cgroup {tmp_path}" in str(
        owner.reaped
    )
    assert "sft.micro_batch_size" in caplog.text


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b'{"process": {}}', b'{"process": 3}'])
def test_a_damaged_record_of_a_process_holds_up_nobody(tmp_path, damage):
    (tmp_path / "running").mkdir()
    (tmp_path / "running" / "a.json").write_bytes(damage)
    assert end_dead_runs(tmp_path) == []


def test_a_beat_renews_the_record(tmp_path, monkeypatch):
    monkeypatch.setenv(HEARTBEAT_VARIABLE, "0.05")
    with beating(tmp_path, stage="sft", run_id="r", journal=tmp_path, prefect=NO_PREFECT):
        ((_, first),) = owners(tmp_path)
        until = time.monotonic() + 10
        while next(owner for _, owner in owners(tmp_path)).beat == first.beat:
            assert time.monotonic() < until


@pytest.mark.parametrize("given", ["0", "-1", "soon", "nan", "inf"])
def test_a_heartbeat_that_is_no_time_is_refused(given, monkeypatch):
    monkeypatch.setenv(HEARTBEAT_VARIABLE, given)
    with pytest.raises(UserError, match=HEARTBEAT_VARIABLE):
        heartbeat_seconds()


@pytest.fixture
def prefect_client(prefect_server):
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield client


def running_in_prefect(client):
    """A flow run and a task run of it that Prefect believes to run."""
    from prefect import flow, task
    from prefect.states import Running

    @flow
    def pipeline(): ...

    @task
    def stage(): ...

    flow_run = client.create_flow_run(pipeline, state=Running())
    task_run = client.create_task_run(
        stage, flow_run_id=flow_run.id, dynamic_key="0", state=Running()
    )
    return flow_run.id, task_run.id


def states(client, flow_run: UUID, task_run: UUID):
    return client.read_flow_run(flow_run).state.name, client.read_task_run(task_run).state.name


def test_prefect_shows_a_killed_run_as_crashed(tmp_path, prefect_client):
    ids = running_in_prefect(prefect_client)
    run_count = prefect_client.read_flow_run(ids[0]).run_count
    beat(
        tmp_path,
        process=dead_process(),
        prefect_flow_run=str(ids[0]),
        prefect_run_count=run_count,
    )
    reap(tmp_path)
    assert states(prefect_client, *ids) == ("Running", "Running")  # no server is configured

    report_crashes(tmp_path)

    assert states(prefect_client, *ids) == ("Crashed", "Crashed")
    assert list(owners(tmp_path)) == []


def test_a_flow_run_that_was_retried_since_is_not_touched(tmp_path, prefect_client):
    ids = running_in_prefect(prefect_client)
    beat(tmp_path, process=dead_process(), prefect_flow_run=str(ids[0]), prefect_run_count=0)
    reap(tmp_path)

    report_crashes(tmp_path)

    assert prefect_client.read_flow_run(ids[0]).run_count == 1
    assert states(prefect_client, *ids) == ("Running", "Running")
