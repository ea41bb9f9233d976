"""`rlhf store`: what lies in a store, how large it is, and the removal of what is not needed."""

from pathlib import Path

import click

from flows import console
from flows.commands.options import json_option, store_option
from tasks.environment import prepare_environment, store_folder
from tasks.store import Store
from tasks.store_care import collect_garbage, disk_usage, find_garbage, list_artifacts

STALE_DAYS = 7.0


@click.group()
def store() -> None:
    """List, measure and clean the store."""


@store.command("ls")
@store_option
@json_option
def list_(store: Path | None, *, as_json: bool) -> None:
    """List the artifacts, and how many commits and runs refer to each."""
    artifacts = list_artifacts(Store(store_folder(store)))
    if as_json:
        console.show_json([artifact._asdict() for artifact in artifacts])
    else:
        console.show_artifacts(artifacts)


@store.command("du")
@store_option
@json_option
def usage(store: Path | None, *, as_json: bool) -> None:
    """Show how large each part of the store is."""
    parts = disk_usage(Store(store_folder(store)))
    if as_json:
        console.show_json(parts)
        return
    largest = sorted(parts.items(), key=lambda part: -part[1])
    rows = [[console.size(count), name] for name, count in largest]
    console.show_table(["size", "part"], [*rows, [console.size(sum(parts.values())), "in all"]])


@store.command("gc")
@click.option("--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
@click.option(
    "--stale-days",
    type=click.FloatRange(min=0),
    default=STALE_DAYS,
    show_default=True,
    help="Give up unfinished work, with its checkpoints, that nobody touched for so long.",
)
@store_option
@json_option
def collect(store: Path | None, stale_days: float, *, dry_run: bool, as_json: bool) -> None:
    """Remove what no commit refers to, what was half written, and stale work."""
    place = Store(store_folder(store))
    prepare_environment(place.folder)  # which MLflow has to have all that it is told
    act = find_garbage if dry_run else collect_garbage
    garbage = act(place, stale_days=stale_days)
    freed = sum(item.bytes for item in garbage)
    if as_json:
        removed = [{**item._asdict(), "path": str(item.path)} for item in garbage]
        console.show_json({"dry_run": dry_run, "bytes": freed, "removed": removed})
        return
    rows = [
        [console.size(item.bytes), str(item.path.relative_to(place.folder)), item.reason]
        for item in garbage
    ]
    if rows:
        console.show_table(["size", "path", "because"], rows)
    click.echo(f"{console.size(freed)} {'would be' if dry_run else 'were'} freed.")
