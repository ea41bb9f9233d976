"""`rlhf runs` and `rlhf ui`: what has run, on the terminal and in a browser."""

from pathlib import Path

import click

from flows import console
from flows.commands.options import json_option, port_option, store_option
from tasks.environment import make_store_folder, prepare_environment, store_folder
from tasks.reaper import end_dead_runs
from tasks.store import Store


@click.command()
@store_option
@json_option
def runs(store: Path | None, *, as_json: bool) -> None:
    """List pipeline runs and the state of each stage, newest first."""
    folder = store_folder(store)
    end_dead_runs(folder)
    records = list(Store(folder).run_records())
    for fault in Store(folder).damaged_runs():
        click.echo(f"rlhf: {fault}", err=True)
    if as_json:
        console.show_json(records)
    else:
        console.show_runs(records)


@click.command()
@store_option
@port_option("--mlflow-port", 5000, "Where MLflow's pages are shown.")
@port_option("--prefect-port", 4200, "Where Prefect's pages are shown.")
def ui(store: Path | None, mlflow_port: int, prefect_port: int) -> None:
    """Show MLflow's and Prefect's pages on this machine only."""
    folder = store_folder(store)
    make_store_folder(folder)
    prepare_environment(folder)
    from flows.ui import serve_pages

    serve_pages(folder, mlflow_port=mlflow_port, prefect_port=prefect_port)
