"""The `rlhf` command in a process of its own."""

import os
import subprocess
import sys

MAIN = "import sys; from flows.cli import main; sys.argv[0] = 'rlhf'; main()"
TIMEOUT_SECONDS = 240


def start_rlhf(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """The command, in a process group of its own as a shell would start it."""
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def rlhf(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    with start_rlhf(*arguments, **environment) as process:
        try:
            out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)
