"""`rlhf sample`, `collect` and `rankings`: what a policy answers, and what people say of it."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows import console
from flows.commands.options import json_option, store_option
from rlhf_core.errors import UserError
from rlhf_core.named_functions import is_function_name
from tasks.environment import prepare_environment, store_folder
from tasks.store import Store

if TYPE_CHECKING:
    from rlhf_core.labeling import Format
    from rlhf_core.settings.judge import PairJudgeSettings


@click.command()
@click.argument("target")
@click.argument("prompts", nargs=-1, metavar="[PROMPT]...")
@click.option("--temperature", type=click.FloatRange(min=0), default=1.0, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@store_option
@json_option
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

    with console.stdout_is_ours(as_json=as_json):
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


@click.command()
@click.argument("target")
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write; `.json` makes one JSON list of it, anything else JSONL.",
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File with prompts; training prompts of the policy's own data when not given.",
)
@click.option("--count", type=click.IntRange(min=1), default=200, show_default=True)
@click.option(
    "--responses",
    type=click.IntRange(min=2, max=9),
    default=4,
    show_default=True,
    help="Responses per prompt.",
)
@click.option(
    "--labeler",
    metavar="MODULE:FUNCTION",
    help="Rank the responses at once, by function(prompts, responses) -> numbers.",
)
@click.option(
    "--judge",
    "judge_address",
    metavar="ADDRESS",
    help="Rank them by a model served behind an OpenAI-compatible ADDRESS.",
)
@click.option("--judge-model", metavar="NAME", help="The judge's name there.")
@click.option(
    "--judge-key-variable", metavar="NAME", help="Environment variable that holds the judge's key."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["rlhf", "argilla", "label-studio"]),
    default="rlhf",
    show_default=True,
)
@click.option("--temperature", type=click.FloatRange(min=0, min_open=True), default=1.0)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@store_option
@json_option
def collect(
    target: str,
    *,
    output: Path,
    prompts: Path | None,
    count: int,
    responses: int,
    labeler: str | None,
    judge_address: str | None,
    judge_model: str | None,
    judge_key_variable: str | None,
    form: "Format",
    temperature: float,
    seed: int,
    store: Path | None,
    as_json: bool,
) -> None:
    """Write several responses of a policy to each prompt into a file, to be ranked.

    TARGET names an artifact of stage sft or ppo, as for `rlhf lineage`. Without a labeler and in
    the formats of Argilla and Label Studio, people rank them there; `rlhf rankings` reads what they
    exported. FILE.origin.json tells which policy wrote the responses.
    """
    if labeler is not None and not is_function_name(labeler):
        raise UserError(
            f"--labeler {labeler!r} is not of the form 'module:function', for example "
            "'rlhf_core.labelers.sentiment:happiness'."
        )
    judge = _judge(judge_address, judge_model, judge_key_variable)
    if judge is not None and labeler is not None:
        raise UserError("--labeler and --judge both rank the responses: keep one of them.")
    folder = store_folder(store)
    prepare_environment(folder)
    from tasks.collect import Request, collect_into

    request = Request(output, prompts, count, responses, labeler, judge, form, temperature, seed)
    with console.stdout_is_ours(as_json=as_json):
        written = collect_into(request, target, Store(folder), _tell_progress)
    if as_json:
        document = {
            "path": str(written.path),
            "origin": str(written.origin),
            "policy": written.policy,
            "documents": written.documents,
            "metrics": dict(written.metrics),
        }
        console.show_json(document)
        return
    click.echo(f"{written.documents} prompts with responses of policy {written.policy[:12]}")
    click.echo(f"  {written.path}\n  {written.origin}")


def _judge(
    address: str | None, model: str | None, key_variable: str | None
) -> "PairJudgeSettings | None":
    if address is None and model is None and key_variable is None:
        return None
    if address is None or model is None:
        raise UserError("--judge ADDRESS and --judge-model NAME belong together: give both.")
    from pydantic import ValidationError

    from rlhf_core.settings.judge import PairJudgeSettings

    try:
        return PairJudgeSettings(address=address, model=model, api_key_variable=key_variable)
    except ValidationError as error:
        raise UserError(f"--judge: {error.errors()[0]['msg']}") from None


def _tell_progress(done: int, total: int) -> None:
    click.echo(f"{done} of {total} responses", err=True)


@click.command()
@click.argument("export", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write: rankings as JSONL, for data.preferences.source.",
)
def rankings(export: Path, output: Path) -> None:
    """Turn an export of Argilla or Label Studio into rankings that a recipe can use."""
    from tasks.collect import import_rankings

    count = import_rankings(export, output)
    click.echo(f"{count} rankings in {output}: --set data.preferences.source={output}")
