"""`rlhf sample`: what a policy answers."""

from pathlib import Path

import click

from flows import console
from flows.commands.options import json_option, store_option
from tasks.environment import prepare_environment, store_folder
from tasks.store import Store


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
