"""`rlhf check`: what the gate says of a recipe's data, or of files by themselves."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows import console, data_report
from flows.commands.options import json_option, overrides_option
from rlhf_core.errors import UserError
from rlhf_core.recipes import load_recipe

if TYPE_CHECKING:
    from rlhf_core.data.schemas import TableName

RECIPE_SUFFIXES = (".yaml", ".yml")


def _list_rules(context: click.Context, _option: click.Parameter, asked: bool) -> None:  # noqa: FBT001
    if asked:
        from rlhf_core.data.rule_table import rule_table

        click.echo(rule_table())
        context.exit()


@click.command()
@click.argument("targets", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--table",
    type=click.Choice(["demonstrations", "preferences", "prompts", "text"]),
    help="Which table the files are; told from their columns when not given.",
)
@click.option(
    "--columns",
    multiple=True,
    metavar="OURS=YOURS",
    help="A column that the files call otherwise, for example prompt=question.",
)
@click.option(
    "--rule",
    "rules",
    multiple=True,
    metavar="ID=ACTION",
    help="What is done with rows that break a rule: refuse, set_aside or warn.",
)
@click.option(
    "--report",
    "folder",
    type=click.Path(path_type=Path),
    help="Keep report.json, report.html and the rows set aside in this folder.",
)
@click.option(
    "--list-rules",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_rules,
    help="Print every rule with its action and mend as a Markdown table, and end.",
)
@overrides_option
@json_option
def check(
    targets: Sequence[Path],
    *,
    table: "TableName | None",
    columns: Sequence[str],
    rules: Sequence[str],
    folder: Path | None,
    overrides: Sequence[str],
    as_json: bool,
) -> None:
    """Check a recipe and its data, or data files by themselves; train nothing.

    TARGETS are one recipe (.yaml), or any number of data files and folders of them: JSONL, Parquet
    and plain text. The exit code is 0 where the rows can be used, if need be with warnings and a
    few of them set aside, and 2 where anything is refused.
    """
    changed = [*overrides, *(_rule_override(rule) for rule in rules)]
    is_recipe = _names_a_recipe(targets)
    if is_recipe and (table or columns):
        raise UserError(
            "--table and --columns are for data files: in a recipe each table names its own, for "
            "example `--set data.preferences.columns={prompt: question}`."
        )
    renamed = _renamed(columns)
    recipe = load_recipe(targets[0], changed) if is_recipe else None
    from tasks.check import check_files, check_recipe, recipe_of_files

    with ExitStack() as kept:
        with console.stdout_is_ours(as_json=as_json):
            if recipe is not None:
                checked = kept.enter_context(check_recipe(recipe, folder))
            else:
                files = recipe_of_files(targets, table, renamed, changed)
                checked = kept.enter_context(check_files(files, folder))
        if as_json:
            named = {"recipe": recipe.name} if recipe else {"files": [str(x) for x in targets]}
            refusal = {"refusal": str(checked.refusal)} if checked.refusal else {}
            data_report.show_json({**named, "metrics": checked.metrics, **refusal}, checked.report)
        else:
            data_report.show(checked)
        if checked.refusal is not None:
            raise checked.refusal


def _names_a_recipe(targets: Sequence[Path]) -> bool:
    recipes = [path for path in targets if path.name.lower().endswith(RECIPE_SUFFIXES)]
    if recipes and len(targets) > 1:
        raise UserError(
            f"{recipes[0].name} is a recipe by its name and stands beside other files: check a "
            "recipe alone, and data files together."
        )
    return bool(recipes)


def _rule_override(rule: str) -> str:
    rule_id, equals, action = rule.partition("=")
    if not equals:
        raise UserError(f"--rule {rule}: expected ID=ACTION, for example `--rule TXT-001=warn`.")
    return f"data.rules.{rule_id.strip()}={action.strip()}"


def _renamed(columns: Sequence[str]) -> Mapping[str, str]:
    renamed = {}
    for column in columns:
        ours, equals, theirs = column.partition("=")
        if not equals or not ours.strip() or not theirs:
            raise UserError(
                f"--columns {column}: expected OURS=YOURS, for example `--columns prompt=question`."
            )
        renamed[ours.strip()] = theirs
    return renamed
