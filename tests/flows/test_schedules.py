"""Schedules, workers and retries on a real Prefect server, with processes that are killed."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.servers import prefect_server, prefect_worker
from flows import crash_watch
from rlhf_core.recipes import load_recipe
from rlhf_core.report import ignore
from tasks.heartbeat import MISSED_BEATS, owners
from tasks.store import CHECKPOINTS, WORK, Store
from tests.flows.command import rlhf, start_rlhf

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HEARTBEAT_SECONDS = 10.0
CRASH_SECONDS = MISSED_BEATS * HEARTBEAT_SECONDS
LONGEST_WAIT_SECONDS = 200.0
POOL = "machines"
IMAGES_POOL = "images"
STAGES = ("data", "sft", "reward_model")
SHORT = ("--set", "last_stage=reward_model", "--set", "sft.epochs=12", "--checkpoint-seconds", "0")


@pytest.fixture(scope="module")
def api(tmp_path_factory) -> Iterator[str]:
    """Address of a Prefect server with a process work pool, and one of Docker."""
    from prefect.client.schemas.actions import WorkPoolCreate

    with prefect_server(tmp_path_factory.mktemp("prefect")) as address:
        with client_of(address) as client:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
            docker = client.read_worker_metadata()["prefect-docker"]["docker"]
            template = docker["default_base_job_configuration"]
            client.create_work_pool(
                WorkPoolCreate(name=IMAGES_POOL, type="docker", base_job_template=template)
            )
        yield address


def client_of(api):
    from prefect.client.orchestration import SyncPrefectClient

    return SyncPrefectClient(api)


@pytest.fixture
def client(api):
    with client_of(api) as client:
        yield client


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def place(api, store) -> dict[str, str]:
    """Environment of a command whose store also holds MLflow, and whose heart beats fast."""
    return {
        "PREFECT_API_URL": api,
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "RLHF_HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
        "RLHF_STORE": str(store.folder),
        "MLFLOW_TRACKING_URI": f"sqlite:///{store.folder / 'mlflow.db'}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": (store.folder / "mlflow-artifacts").as_uri(),
    }


def wait_for(what, look, seconds=LONGEST_WAIT_SECONDS):
    """What `look` finds, once it finds something."""
    until = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < until, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)
    return found


def trains(store, stage):
    """The process that trains the stage, once it has saved its state."""
    if not [*store.folder.glob(f"{WORK}/{stage}-*/{CHECKPOINTS}/step-*")]:
        return None
    return next((o.process.pid for _, o in owners(store.folder) if o.stage == stage), None)


def state_of(client, flow_run):
    return client.read_flow_run(flow_run.id).state


def runs_of(client, deployment):
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

    of_it = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
    return client.read_flow_runs(deployment_filter=of_it)


def begun_runs(client, deployment):
    """The deployment's flow runs that ran or run, in order."""
    begun = [run for run in runs_of(client, deployment) if run.run_count]
    return sorted(begun, key=lambda run: run.start_time)


def skipped_runs(client, deployment):
    return [
        run for run in runs_of(client, deployment) if run.state.is_cancelled() and not run.run_count
    ]


def tracked(place):
    """MLflow's runs by the name of their stage; those of pipelines have none."""
    from tasks.mlflow_store import mlflow_client

    client = mlflow_client(place["MLFLOW_TRACKING_URI"])
    experiments = [found.experiment_id for found in client.search_experiments()]
    runs = client.search_runs(experiments, order_by=["attributes.start_time ASC"])
    return [(run.data.tags.get("stage"), run) for run in runs]


def statuses(place, stage):
    return [run.info.status for name, run in tracked(place) if name == stage]


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def check_each_stage_ran_once(store, place):
    """One run of each stage, whatever was killed, whose series has each step of the artifact's."""
    from tasks.mlflow_store import mlflow_client

    assert Counter(stage for stage, _ in tracked(place) if stage) == Counter(STAGES)
    made = Counter(
        stage
        for record in store.run_records()
        for stage, facts in record["stages"].items()
        if facts["state"] == "done"
    )
    assert made == Counter(STAGES)
    (sft,) = [run for stage, run in tracked(place) if stage == "sft"]
    assert sft.info.status == "FINISHED"
    history = Path(sft.data.tags["artifact.path"]) / "history.jsonl"
    steps = [json.loads(line)["step"] for line in history.read_text().splitlines()]
    client = mlflow_client(place["MLFLOW_TRACKING_URI"])
    points = client.get_metric_history(sft.info.run_id, "loss")
    assert [point.step for point in points] == sorted(set(steps))


def test_a_schedule_goes_on_after_a_kill_runs_no_stage_twice_and_never_two_at_once(
    client, place, store, tiny_recipe
):
    served = start_rlhf(
        *("serve", tiny_recipe, "--interval", "5s", "--set", "name=nightly", *SHORT), **place
    )
    try:
        pid = wait_for("the first firing to train", lambda: trains(store, "sft"))
        deployment = client.read_deployment_by_name("rlhf/nightly")
        client.pause_deployment(deployment.id)  # until what became of the killed run is looked at
        kill(pid)
        (killed,) = begun_runs(client, deployment)
        wait_for("a crash", lambda: state_of(client, killed).is_crashed(), CRASH_SECONDS)
        wait_for("MLflow", lambda: statuses(place, "sft") == ["FAILED"], CRASH_SECONDS)
        assert statuses(place, None) == ["KILLED"]
        client.resume_deployment(deployment.id)

        ends = ["KILLED", "FINISHED", "FINISHED"]
        wait_for("two more firings", lambda: statuses(place, None)[:3] == ends)
    finally:
        served.send_signal(signal.SIGTERM)
        _, err = served.communicate(timeout=LONGEST_WAIT_SECONDS)
    assert served.returncode == 128 + signal.SIGTERM, err

    check_each_stage_ran_once(store, place)
    records = sorted(store.run_records(), key=lambda record: record["started_at"])
    states = [[record["stages"][x]["state"] for x in record["stages"]] for record in records[:3]]
    assert states == [["done", "crashed"], ["reused", "done", "done"], ["reused"] * 3]
    begun = begun_runs(client, deployment)
    assert all(former.end_time <= later.start_time for former, later in pairwise(begun))
    assert skipped_runs(client, deployment)


def test_a_killed_run_of_a_worker_frees_its_slot_and_the_next_goes_on_from_its_checkpoint(
    api, client, place, store, tiny_recipe, tmp_path
):
    deployed = rlhf(
        *("deploy", tiny_recipe, "--pool", POOL, "--overlap", "queue"),
        *("--set", "name=queued", *SHORT),
        **place,
    )
    assert deployed.returncode == 0, deployed.stderr
    deployment = client.read_deployment_by_name("rlhf/queued")
    log = tmp_path / "worker.log"
    with prefect_worker(api, POOL, log):
        first = client.create_flow_run_from_deployment(deployment.id)
        pid = wait_for("the first run to train", lambda: trains(store, "sft"))
        second = client.create_flow_run_from_deployment(deployment.id)
        wait_for(
            "the second to queue",
            lambda: state_of(client, second).name == "AwaitingConcurrencySlot",
        )
        kill(pid)
        wait_for("a crash", lambda: state_of(client, first).is_crashed(), CRASH_SECONDS)
        wait_for("the second to end", lambda: state_of(client, second).is_final())

    assert state_of(client, second).is_completed(), log.read_text()
    assert "training continues after step" in log.read_text()
    check_each_stage_ran_once(store, place)
    former, later = begun_runs(client, deployment)
    assert (former.id, later.id) == (first.id, second.id)
    assert former.end_time <= later.start_time


@pytest.fixture
def damaged_base(tiny_recipe, tmp_path) -> Path:
    """The folder of a base model whose weights were cut; the whole ones lie beside it."""
    from rlhf_core.stages.data import make_data
    from rlhf_core.stages.sft import base_model

    recipe = load_recipe(tiny_recipe)
    (tmp_path / "data").mkdir()
    make_data(recipe.data, recipe.model, out_dir=tmp_path / "data", report=ignore, seed=1)
    tokenizer, policy = base_model(recipe.model, tmp_path / "data", seed=1)
    base = tmp_path / "base"
    policy.save_pretrained(base)
    tokenizer.save_pretrained(base)
    weights = (base / "model.safetensors").read_bytes()
    (tmp_path / "whole.safetensors").write_bytes(weights)
    (base / "model.safetensors").write_bytes(weights[:-64])
    return base


def test_retry_runs_the_failed_stage_and_what_depends_on_it_on_the_same_inputs(
    api, client, place, store, tiny_recipe, damaged_base, tmp_path
):
    from prefect.client.schemas.objects import StateType
    from prefect.states import State

    recipe = tmp_path / "based.yaml"
    scratch = "scratch: {hidden_size: 16, layers: 1, heads: 2, intermediate_size: 32}"
    recipe.write_text(tiny_recipe.read_text().replace(scratch, f"base: {damaged_base}"))
    deployed = rlhf(
        *("deploy", recipe, "--pool", POOL, "--set", "name=mended", *SHORT),
        **place,
    )
    assert deployed.returncode == 0, deployed.stderr
    deployment = client.read_deployment_by_name("rlhf/mended")
    log = tmp_path / "worker.log"
    with prefect_worker(api, POOL, log):
        run = client.create_flow_run_from_deployment(deployment.id)
        wait_for("the run to fail", lambda: state_of(client, run).is_final())
        assert state_of(client, run).is_failed(), log.read_text()
        failed = next(store.run_records())
        assert {x: facts["state"] for x, facts in failed["stages"].items()} == {
            "data": "done",
            "sft": "failed",
        }
        (tmp_path / "whole.safetensors").rename(damaged_base / "model.safetensors")
        # what Prefect's Retry button asks for
        retry = State(type=StateType.SCHEDULED, name="AwaitingRetry", message="Retry from the UI")
        client.set_flow_run_state(run.id, retry)
        wait_for("the retry to begin", lambda: client.read_flow_run(run.id).run_count == 2)
        wait_for("the retry to end", lambda: state_of(client, run).is_final())

    assert state_of(client, run).is_completed(), log.read_text()
    retried = next(store.run_records())
    assert retried["run_id"] == failed["run_id"]
    states = {stage: facts["state"] for stage, facts in retried["stages"].items()}
    assert states == {"data": "reused", "sft": "done", "reward_model": "done"}
    assert retried["stages"]["data"]["digest"] == failed["stages"]["data"]["digest"]
    found = {stage: statuses(place, stage) for stage in (None, *STAGES)}
    assert found.pop("sft") == ["FAILED", "FINISHED"]  # the whole weights make it another job
    assert found == {None: ["FINISHED"], "data": ["FINISHED"], "reward_model": ["FINISHED"]}


def test_a_pool_that_is_missing_or_lacks_the_package_is_refused(place, tiny_recipe):
    missing = rlhf("deploy", tiny_recipe, "--pool", "nowhere", **place)
    assert missing.returncode == 2
    assert "Prefect knows no work pool 'nowhere'" in missing.stderr
    docker = rlhf("deploy", tiny_recipe, "--pool", IMAGES_POOL, **place)
    assert docker.returncode == 2
    assert f"Work pool '{IMAGES_POOL}' is of type docker" in docker.stderr
    assert "Traceback" not in missing.stderr + docker.stderr


def test_deploying_again_replaces_the_schedule_and_makes_no_second_watch(
    client, place, tiny_recipe
):
    def deployed(*schedule):
        command = ("deploy", tiny_recipe, "--pool", POOL, "--name", "anew", *schedule)
        assert rlhf(*command, **place).returncode == 0
        found = client.read_deployment_by_name("rlhf/anew")
        return [entry.schedule for entry in found.schedules]

    (every_day,) = deployed("--interval", "1d")
    assert every_day.interval.total_seconds() == 86400
    (nightly,) = deployed("--cron", "0 3 * * *")
    assert (nightly.cron, nightly.timezone) == ("0 3 * * *", "UTC")
    assert deployed() == []
    (watch,) = client.read_automations_by_name(crash_watch.NAME)
    assert watch.enabled
    assert watch.trigger.within.total_seconds() == 3 * 60
