"""The `rlhf` command.

Recipes are read before Prefect, MLflow or torch are loaded, so that a fault in one is told at
once; the environment of all three is filled in before they are.
"""

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from flows import console
from rlhf_core.errors import RlhfError
from rlhf_core.recipes import load_recipe, recipe_schema
from tasks.environment import (
    make_store_folder,
    mlflow_is_served,
    prepare_environment,
    store_folder,
)
from tasks.store import Store

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM

_recipe = click.argument("recipe", type=click.Path(path_type=Path))
_overrides = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Override one value, for example ppo.kl_coef=0.1; may be given several times.",
)
_store = click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of artifacts and records; RLHF_STORE or ./rlhf-store when not given.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document only.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rlhf")
def cli() -> None:
    """Reinforcement learning from human feedback: data, SFT, reward model, PPO, evaluation."""


@cli.command()
@_recipe
@_overrides
@_store
@_json
def run(recipe: Path, overrides: Sequence[str], store: Path | None, *, as_json: bool) -> None:
    """Run a recipe from raw rows to the evaluation."""
    settings = load_recipe(recipe, overrides)
    folder = store_folder(store)
    make_store_folder(folder)
    prepare_environment(folder)
    with _stdout_is_ours(as_json=as_json):
        from flows.rlhf import rlhf_pipeline

        console.shorten_faults()
        made = rlhf_pipeline(settings, folder)
    record = _run_record(Store(folder), made["data"].run_id)
    if as_json:
        console.show_json(record)
    else:
        console.show_run(record, _places(record))


@cli.command()
@_recipe
@_overrides
@_json
def check(recipe: Path, overrides: Sequence[str], *, as_json: bool) -> None:
    """Check a recipe and its data; train nothing and keep nothing."""
    settings = load_recipe(recipe, overrides)
    from tasks.check import check_data

    with _stdout_is_ours(as_json=as_json):
        checked = check_data(settings)
    if as_json:
        console.show_json(checked)
    else:
        console.show_report(checked)


@cli.command()
@click.argument("target")
@_store
@_json
def lineage(target: str, store: Path | None, *, as_json: bool) -> None:
    """Walk from an artifact back to raw files, settings and code.

    TARGET is a folder, a digest or its beginning, an MLflow run id, or a registered model as
    name@alias or name/version.
    """
    folder = store_folder(store)
    prepare_environment(folder)
    from tasks.lineage import lineage_text, trace

    found = trace(target, Store(folder))
    if as_json:
        console.show_json(found.to_json())
    else:
        click.echo(lineage_text(found))


@cli.command()
@click.argument("target")
@click.argument("prompts", nargs=-1, metavar="[PROMPT]...")
@click.option("--temperature", type=click.FloatRange(min=0), default=1.0, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@_store
@_json
def sample(
    target: str,
    prompts: tuple[str, ...],
    temperature: float,
    seed: int,
    store: Path | None,
    *,
    as_json: bool,
) -> None:
    """Answer prompts with a policy; held-out ones of its own data where none is given.

    TARGET names an artifact of stage sft or ppo, as for `rlhf lineage`.
    """
    folder = store_folder(store)
    prepare_environment(folder)
    from tasks.sample import sample_policy

    with _stdout_is_ours(as_json=as_json):
        samples = sample_policy(target, prompts, Store(folder), temperature=temperature, seed=seed)
    if as_json:
        responses = [response._asdict() for response in samples.responses]
        console.show_json(
            {"digest": samples.digest, "stage": samples.stage, "responses": responses}
        )
        return
    for response in samples.responses:
        ending = "" if response.ended else " … (cut at the token limit)"
        click.echo(f"{response.prompt}\n  => {response.text}{ending}\n")


@cli.command()
@_store
@_json
def runs(store: Path | None, *, as_json: bool) -> None:
    """List pipeline runs and the state of each stage, newest first."""
    records = list(Store(store_folder(store)).run_records())
    if as_json:
        console.show_json(records)
    else:
        console.show_runs(records)


@cli.command()
@_store
@click.option("--mlflow-port", default=5000, show_default=True)
@click.option("--prefect-port", default=4200, show_default=True)
def ui(store: Path | None, mlflow_port: int, prefect_port: int) -> None:
    """Show MLflow's and Prefect's pages on this machine only."""
    folder = store_folder(store)
    make_store_folder(folder)
    prepare_environment(folder)
    from flows.ui import serve_pages

    serve_pages(folder, mlflow_port=mlflow_port, prefect_port=prefect_port)


@cli.group("recipe")
def recipe_group() -> None:
    """About recipes."""


@recipe_group.command()
def schema() -> None:
    """Print the JSON schema of a recipe, for editors."""
    console.show_json(recipe_schema())


def main() -> NoReturn:
    """Run the command; a fault that the user can mend is a message and an exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        status = cli.main(standalone_mode=False)
    except RlhfError as error:
        click.echo(f"rlhf: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("rlhf: interrupted", err=True)
        sys.exit(INTERRUPTED)
    sys.exit(status if isinstance(status, int) else 0)


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    click.echo("rlhf: terminated", err=True)
    sys.exit(TERMINATED)


@contextlib.contextmanager
def _stdout_is_ours(*, as_json: bool) -> Iterator[None]:
    """With `--json`, whatever a library prints goes to standard error."""
    if not as_json:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _run_record(store: Store, stage_run_id: str) -> dict[str, Any]:
    """The record of the pipeline run that a stage run belongs to."""
    return next(
        record
        for record in store.run_records()
        if record["stages"]["data"].get("run_id") == stage_run_id
    )


def _places(record: dict[str, Any]) -> dict[str, str]:
    """Where to look after a run."""
    last = list(record["stages"].values())[-1]
    hint = "" if mlflow_is_served() else " (after `rlhf ui` on the same store)"
    places = {
        "MLflow": record["url"] + hint,
        "lineage": f"rlhf lineage {last['digest'][: console.SHOWN_DIGEST]}",
    }
    if "evaluation" in record["stages"]:
        report = Path(record["stages"]["evaluation"]["path"]) / "report.html"
        places = {"report": str(report), **places}
    return places
