"""The command, with stages that compute nothing, struck by a signal at one moment of its run.

`python -m tests.tasks.struck SIGNAL MOMENT rlhf's arguments...`, where a moment is
`module:function:n:before` or `...:after` its n-th call, or `log:n:words` in the log.
"""

import importlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.tasks.fake_stages import replace_stages

TIMEOUT_SECONDS = 240


def struck(
    signum: signal.Signals, moment: str, *arguments: object, **environment: str
) -> subprocess.CompletedProcess[str]:
    """How the command ended."""
    command = [sys.executable, "-m", "tests.tasks.struck", signum.name, moment]
    return subprocess.run(
        [*command, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
    )


def main() -> None:
    signum, moment = signal.Signals[sys.argv[1]], sys.argv[2]
    sys.argv = ["rlhf", *sys.argv[3:]]
    replace_stages(pytest.MonkeyPatch())
    from flows.cli import main as command

    run = importlib.import_module("flows.commands.run")
    prepare = run.prepare

    def prepare_and_aim(*arguments: Any) -> None:
        prepare(*arguments)
        aim(moment, lambda: os.kill(os.getpid(), signum))

    run.prepare = prepare_and_aim  # what follows loads Prefect, which reads the environment
    command()


def aim(moment: str, strike: Callable[[], None]) -> None:
    """`strike` is called at the moment, once."""
    if moment.startswith("log:"):
        _, count, words = moment.split(":", 2)
        calls = iter(range(1, int(count)))

        def shown(record: logging.LogRecord) -> bool:
            if words in record.getMessage() and next(calls, None) is None:
                strike()
            return True

        logging.getLogger("prefect.task_runs").addFilter(shown)
        return
    module_name, name, count, when = moment.split(":")
    module = importlib.import_module(module_name)
    whole = getattr(module, name)
    calls = iter(range(1, int(count)))

    def hit(*arguments: Any, **keywords: Any) -> Any:
        now = next(calls, None) is None
        if now and when == "before":
            strike()
        result = whole(*arguments, **keywords)
        if now and when == "after":
            strike()
        return result

    setattr(module, name, hit)


if __name__ == "__main__":
    main()
