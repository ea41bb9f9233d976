"""The `rlhf` command.

Recipes are read before Prefect, MLflow or torch are loaded, so that a fault in one is told at
once; the environment of all three is filled in before they are.
"""

import atexit
import gc
import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn

import click

from flows.commands.artifacts import collect, rankings, sample
from flows.commands.check import check
from flows.commands.lineage import diff, lineage, rows, verify
from flows.commands.pages import runs, ui
from flows.commands.recipe import recipe
from flows.commands.run import plan, rerun, run
from flows.commands.schedule import deploy, serve
from flows.commands.store import store
from rlhf_core.errors import RlhfError
from rlhf_core.stopping import PROCESS

INTERRUPTED = 128 + signal.SIGINT


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rlhf")
def cli() -> None:
    """Reinforcement learning from human feedback: data, SFT, reward model, PPO, evaluation."""


for _command in (
    *(run, plan, rerun, check),
    *(lineage, verify, diff, rows),
    *(sample, collect, rankings),
    *(runs, store, ui),
    *(serve, deploy, recipe),
):
    cli.add_command(_command)


def main() -> NoReturn:
    """Run the command; a fault that the user can mend is a message and an exit code."""
    atexit.register(gc.freeze)  # else the last collection goes through all of torch for two seconds
    PROCESS.answer_with(_asked_to_end)
    try:
        status = cli.main(standalone_mode=False)
    except RlhfError as error:
        click.echo(f"rlhf: {error}", err=True)
        sys.exit(128 + PROCESS.signum if PROCESS.signum else error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("rlhf: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except Exception:
        if not PROCESS.signum:
            raise
        click.echo("rlhf: interrupted", err=True)  # whatever a library made of the signal
        sys.exit(128 + PROCESS.signum)
    sys.exit(status if isinstance(status, int) else 0)


def _asked_to_end(signum: int, _frame: FrameType | None) -> None:
    """While a stage trains it saves its state first, and a second signal ends it; else at once."""
    saves_first = PROCESS.is_listened_to
    PROCESS.request(signum)
    if saves_first:
        return
    if signum == signal.SIGTERM:
        with suppress(OSError):  # past the buffers, in which the process may be writing just now
            os.write(sys.stderr.fileno(), b"rlhf: terminated\n")
    PROCESS.end()


if __name__ == "__main__":
    main()
