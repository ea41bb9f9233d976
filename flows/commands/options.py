"""Arguments and options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from rlhf_core.settings.base import STAGES

recipe_argument = click.argument("recipe", type=click.Path(path_type=Path))
overrides_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Override one value, for example ppo.kl_coef=0.1; may be given several times.",
)
store_option = click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of artifacts and records; RLHF_STORE or ./rlhf-store when not given.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document only.")
force_option = click.option(
    "--force",
    multiple=True,
    type=click.Choice(STAGES),
    help="Compute this stage again though its result is there; may be given several times.",
)
checkpoint_option = click.option(
    "--checkpoint-seconds",
    type=click.FloatRange(min=0),
    help="How often training saves its state; RLHF_CHECKPOINT_SECONDS or 60 when not given.",
)


def port_option(name: str, default: int, explained: str) -> Callable[[Any], Any]:
    """An option that names a port of this machine."""
    ports = click.IntRange(1, 65535)
    return click.option(name, type=ports, default=default, show_default=True, help=explained)
