"""`rlhf lineage`, `verify`, `diff`, `rows`: where an artifact came from, and whether it is whole.

They read folders alone: no server is asked, and neither torch nor MLflow is loaded, unless the
target is a name that only MLflow knows.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click

from flows import console
from flows.commands.options import json_option, store_option
from rlhf_core.errors import StorageError
from tasks.environment import prepare_environment, store_folder
from tasks.store import Store

TABLE_ROW = "TABLE:N"


@click.command()
@click.argument("target")
@store_option
@json_option
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with a picture."
)
@click.option(
    "--openlineage", metavar="FILE_OR_URL", help="Export as OpenLineage events (JSON lines)."
)
def lineage(
    target: str,
    store: Path | None,
    html: Path | None,
    openlineage: str | None,
    *,
    as_json: bool,
) -> None:
    """Walk from an artifact back to raw files, settings and code.

    TARGET is a folder, a digest or its beginning, the id of a stage run or a pipeline run, or a
    registered model as name@alias or name/version.
    """
    folder = _prepared(store)
    from tasks.lineage import lineage_text, trace

    found = trace(target, Store(folder))
    if as_json:
        console.show_json(found.to_json())
    else:
        click.echo(lineage_text(found))
    if html is not None:
        from tasks.lineage_page import lineage_page

        _write(html, lineage_page(found))
    if openlineage is not None:
        from tasks.openlineage import export_events, lineage_events

        export_events(lineage_events(found), openlineage)


@click.command()
@click.argument("target")
@store_option
@json_option
def verify(target: str, store: Path | None, *, as_json: bool) -> None:
    """Hash every file of an artifact and of all it was made from again.

    Also raw files that are still where they were read. Ends with 4 where an artifact is damaged,
    and with 2 where one is not here or a raw file was changed since.
    """
    folder = _prepared(store)
    from tasks.lineage import trace
    from tasks.verify import verification_text, verify_lineage

    checked = verify_lineage(trace(target, Store(folder)))
    if as_json:
        console.show_json(checked.to_json())
    else:
        click.echo(verification_text(checked))
    if checked.fault is not None:
        raise checked.fault


@click.command()
@click.argument("a")
@click.argument("b")
@store_option
@json_option
def diff(a: str, b: str, store: Path | None, *, as_json: bool) -> None:
    """Explain why two artifacts of one stage differ, down to the rows of the raw files.

    A and B are named as for `rlhf lineage`.
    """
    folder = _prepared(store)
    from tasks.diff import diff_lineages
    from tasks.diff_text import diff_text
    from tasks.lineage import trace

    found = diff_lineages(trace(a, Store(folder)), trace(b, Store(folder)))
    if as_json:
        console.show_json(found.to_json())
    else:
        click.echo(diff_text(found))


@click.command()
@click.argument("target")
@click.option("--file", "file", metavar="NAME", help="A raw file; with --line.")
@click.option("--line", type=int, help="A line of the raw file, the first is 1.")
@click.option("--row", metavar=TABLE_ROW, help="A row of a table, the first is 0.")
@store_option
@json_option
def rows(
    target: str,
    file: str | None,
    line: int | None,
    row: str | None,
    store: Path | None,
    *,
    as_json: bool,
) -> None:
    """Follow one row: where a raw line went, or where a training row came from.

    TARGET is any artifact, named as for `rlhf lineage`. With --file and --line: the tables that
    the line stands in, or why it was set aside or left out, and the artifacts that were trained on
    it. With --row, for example demonstrations-train:0: the file and line that it came from.
    """
    if (row is None) == (file is None or line is None):
        raise click.UsageError("Give either --file and --line, or --row.")
    folder = _prepared(store)
    from tasks.lineage import trace
    from tasks.rows import origin_of_row, use_of_line
    from tasks.rows_text import origin_text, use_text

    found = trace(target, Store(folder))
    if row is not None:
        table, number = _table_and_number(row)
        origin = origin_of_row(found, table, number)
        _show(asdict(origin), lambda: origin_text(origin), as_json=as_json)
    elif file is not None and line is not None:
        use = use_of_line(found, Store(folder), file=file, line=line)
        _show(asdict(use), lambda: use_text(use), as_json=as_json)


def _prepared(store: Path | None) -> Path:
    folder = store_folder(store)
    prepare_environment(folder)
    return folder


def _show(document: object, text: Callable[[], str], *, as_json: bool) -> None:
    if as_json:
        console.show_json(document)
    else:
        click.echo(text())


def _table_and_number(row: str) -> tuple[str, int]:
    table, _, number = row.rpartition(":")
    if not table or not number.isdecimal():
        raise click.UsageError(f"--row takes {TABLE_ROW}, for example demonstrations-train:0.")
    return table, int(number)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from error
