"""What serves a schedule asks its runs to end before it does."""

import subprocess
import sys

from flows.serving import _children, end_children

SLEEPER = "import time; print('up', flush=True); time.sleep(60)"


def start_sleeper() -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def test_children_are_asked_to_end_and_waited_for_but_not_the_spared_ones():
    before = set(_children())
    with start_sleeper() as run, start_sleeper() as server:
        end_children({*before, server.pid})

        assert run.wait(timeout=0.5) == -15
        assert server.poll() is None
        server.kill()
