"""Take servers away in the middle of real runs, and say what became of the runs.

    python -m benchmarks.outages --case postgres --case mlflow --case experiment --case worker

postgres    MLflow and Prefect on one PostgreSQL, which is restarted in immediate mode three times
mlflow      the MLflow server is killed for --seconds, and started again
experiment  the run's experiment is deleted in MLflow, and restored after the run
worker      a Prefect worker and the run that it started are killed together

Servers, databases and stores are made for each case, on loopback, and removed. One line is printed
per case. What MLflow has is compared with the run's journals point by point: name, step, value and
time; the journals are kept by a second link, since a finished run removes its own.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

from benchmarks.children import RECIPE, SMALL
from benchmarks.pace import Pace
from benchmarks.place import LONGEST_SECONDS, Place, compare, new_place
from benchmarks.postgres import Postgres
from benchmarks.servers import (
    Server,
    free_port,
    mlflow_server,
    prefect_server,
    prefect_worker,
)
from tasks.leftovers import ship_leftovers
from tasks.run_journal import SUFFIX
from tasks.store import JOURNAL, WORK

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

DOWN_SECONDS = 3.0
BEAT_SECONDS = 30
"""Prefect's shortest; three missed ones are a crash."""

POOL = "machines"
ENDED = "ended"


def settings(*overrides: str) -> list[str]:
    """The embedded recipe, changed as told."""
    return [str(RECIPE), *(part for override in overrides for part in ("--set", override))]


def series(compared: tuple[int, int, int]) -> str:
    """The comparison in words."""
    said, missing, more = compared
    return f"{said} points in the journals, {missing} missing in MLflow, {more} doubled or foreign"


def sound(compared: tuple[int, int, int]) -> bool:
    """Whether MLflow has the journals, no more, no less."""
    said, missing, more = compared
    return said > 0 and missing == more == 0


def postgres_case(_: argparse.Namespace) -> tuple[bool, str]:
    """PostgreSQL is restarted in immediate mode while the stages run."""
    from prefect.client.orchestration import SyncPrefectClient

    with new_place() as place, ExitStack() as servers:
        database = Postgres(place.folder)
        database.start()
        servers.callback(database.end)
        for name in ("mlflow", "prefect"):
            database.create_database(name)
        connection = database.address("asyncpg", "prefect")
        place.environment["PREFECT_API_URL"] = servers.enter_context(
            prefect_server(place.folder, PREFECT_SERVER_DATABASE_CONNECTION_URL=connection)
        )
        address = _start_mlflow(place, servers, database.address("psycopg2", "mlflow"))[1]
        overrides = [*SMALL, "sft.epochs=40", "ppo.updates=60", "last_stage=ppo"]
        run = place.rlhf("run", *settings(*overrides), "--checkpoint-seconds", "1")
        restarts = 0
        for stage in ("sft", "reward_model", "ppo"):
            if place.watch(stage, partial(_trains_or_ended, place, run, stage)) == ENDED:
                break
            database.end()
            time.sleep(DOWN_SECONDS)
            database.start()
            restarts += 1
        code = place.watch("the end", run.poll)
        compared = compare(place.kept, address)
        with SyncPrefectClient(place.environment["PREFECT_API_URL"]) as client:
            (flow_run,) = client.read_flow_runs()
            shown = _state(client, flow_run.id)
        whole = code == 0 and restarts == 3 and sound(compared) and shown == "Completed"
        return whole, (
            f"{restarts} restarts, exit {code}, Prefect shows {shown}; {series(compared)}"
        )


def mlflow_case(arguments: argparse.Namespace) -> tuple[bool, str]:
    """The MLflow server is killed for a while in mid-run."""
    with new_place() as place, ExitStack() as servers:
        database = f"sqlite:///{place.folder / 'mlflow.db'}"
        server, address = _start_mlflow(place, servers, database)
        overrides = ["last_stage=sft", "data.world={demonstrations: 800}", "sft.epochs=100000"]
        run = place.rlhf("run", *settings(*overrides), "--checkpoint-seconds", "30")
        pid = place.watch("training", lambda: place.trains("sft"))
        place.keep_journals()
        (journal,) = place.store.folder.glob(f"{WORK}/sft-*/{JOURNAL}/*{SUFFIX}")
        pace = Pace(pid, journal)
        pace.watch(arguments.seconds / 2, "there")
        server.end(signal.SIGKILL)
        pace.watch(arguments.seconds, "away")
        server.start()
        pace.watch(arguments.seconds / 2, "there")
        run.send_signal(signal.SIGTERM)
        code = place.watch("the end", run.poll)
        os.environ["MLFLOW_TRACKING_URI"] = address
        while ship_leftovers(place.store.folder):
            time.sleep(1)
        compared = compare(place.kept, address)
        whole = code == 128 + signal.SIGTERM and sound(compared)
        return whole, f"exit {code}; {pace.summary()}; {series(compared)}"


def experiment_case(_: argparse.Namespace) -> tuple[bool, str]:
    """The experiment is deleted in mid-run, and restored before the next start."""
    from tasks.mlflow_store import mlflow_client

    with new_place() as place, ExitStack() as servers:
        database = f"sqlite:///{place.folder / 'mlflow.db'}"
        address = _start_mlflow(place, servers, database)[1]
        client = mlflow_client(address)
        command = ["run", *settings(*SMALL, "sft.epochs=40", "last_stage=sft")]
        run = place.rlhf(*command)
        experiment = place.watch("MLflow's run of sft", lambda: _experiment(place, "sft"))
        client.delete_experiment(experiment)
        code = place.watch("the end", run.poll)
        told = place.said().count("was deleted")
        left = len([*place.store.folder.glob(f"{WORK}/*/{JOURNAL}/*{SUFFIX}")])
        client.restore_experiment(experiment)
        again = place.watch("the next start", place.rlhf(*command).poll)
        compared = compare(place.kept, address)
        whole = (code, again) == (0, 0) and told > 0 and left > 0 and sound(compared)
        return whole, (
            f"exit {code}, {told} lines say so, {left} journals kept; restored, next start exit "
            f"{again}; {series(compared)}"
        )


def worker_case(_: argparse.Namespace) -> tuple[bool, str]:
    """Worker and run are killed together; Prefect's automation ends the run and frees its slot."""
    with new_place() as place, ExitStack() as servers:
        api = servers.enter_context(prefect_server(place.folder))
        from prefect.client.orchestration import SyncPrefectClient
        from prefect.client.schemas.actions import WorkPoolCreate

        client = servers.enter_context(SyncPrefectClient(api))
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        place.environment |= {
            "PREFECT_API_URL": api,
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(BEAT_SECONDS),
        }
        small = settings(*SMALL, "sft.epochs=40", "last_stage=sft")
        options = ["--pool", POOL, "--checkpoint-seconds", "1"]
        deployed = place.rlhf("deploy", *small, *options).wait(LONGEST_SECONDS)
        deployment = client.read_deployment_by_name("rlhf/support-desk")
        log = place.folder / "worker.log"
        with prefect_worker(api, POOL, log, place.environment) as worker:
            run = client.create_flow_run_from_deployment(deployment.id)
            pid = place.watch("training", lambda: place.trains("sft"))
            worker.kill()
            os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        place.watch("a crash", lambda: _state(client, run.id) == "Crashed")
        seconds = time.monotonic() - killed
        with prefect_worker(api, POOL, log, place.environment):
            second = client.create_flow_run_from_deployment(deployment.id)
            ends = ("Completed", "Failed", "Crashed", "Cancelled")
            place.watch("the next run", lambda: _state(client, second.id) in ends)
        shown = _state(client, second.id)
        resumed = "training continues after step" in log.read_text()
        whole = deployed == 0 and shown == "Completed" and resumed
        return whole, (
            f"Crashed {seconds:.0f} s after the kill at a beat of {BEAT_SECONDS} s; the next run "
            f"{shown}, {'from the checkpoint' if resumed else 'NOT from the checkpoint'}"
        )


def _start_mlflow(place: Place, servers: ExitStack, database: str) -> tuple[Server, str]:
    port = free_port()
    server = mlflow_server(place.folder, database, port)
    server.start()
    servers.callback(server.end)
    address = f"http://127.0.0.1:{port}"
    place.environment["MLFLOW_TRACKING_URI"] = address
    return server, address


def _trains_or_ended(place: Place, run: subprocess.Popen[str], stage: str) -> int | str | None:
    return place.trains(stage) or (None if run.poll() is None else ENDED)


def _experiment(place: Place, stage: str) -> str | None:
    """The experiment in which MLflow has the run of the stage, once it has it."""
    for path in place.store.folder.glob(f"{WORK}/{stage}-*/{JOURNAL}/*.shipped.json"):
        with suppress(ValueError, FileNotFoundError):
            known = json.loads(path.read_text())["place"]
            return str(known["experiment_id"]) if known else None
    return None


def _state(client: "SyncPrefectClient", flow_run: UUID) -> str:
    """How Prefect names the state of the run."""
    state = client.read_flow_run(flow_run).state
    return state.name or "" if state is not None else ""


CASES = {
    "postgres": postgres_case,
    "mlflow": mlflow_case,
    "experiment": experiment_case,
    "worker": worker_case,
}


def main() -> None:
    """Run the cases, print a line for each, and fail unless all hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", action="append", choices=CASES, help="all where none is given")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long MLflow is away")
    arguments = parser.parse_args()
    failed = False
    for name in arguments.case or CASES:
        held, found = CASES[name](arguments)
        failed = failed or not held
        print(f"{'holds' if held else 'FAILS'}: {name}: {found}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
