"""What serves a schedule asks its runs to end before it does."""

import json
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from flows.serving import _children, end_children
from tests.flows.command import start_rlhf
from tests.processes import free_port

LONGEST_WAIT_SECONDS = 120

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


@pytest.mark.slow
def test_the_server_of_a_schedule_has_pages_and_ends_even_when_its_command_is_killed(
    tiny_recipe, tmp_path
):
    port = free_port()
    place = {"RLHF_STORE": str(tmp_path), "PREFECT_HOME": str(tmp_path / "prefect")}
    with start_rlhf("serve", tiny_recipe, "--prefect-port", port, **place) as served:
        assert served.stdout is not None
        assert served.stdout.readline().startswith("Served: rlhf/tiny. Prefect's pages: http://")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=30) as answer:
            assert "<html" in answer.read().decode()
        deployment = f"http://127.0.0.1:{port}/api/deployments/name/rlhf/tiny"
        with urllib.request.urlopen(deployment, timeout=30) as answer:
            assert json.load(answer)["entrypoint"] == "flows.rlhf.rlhf_pipeline"
        served.kill()
    until = time.monotonic() + LONGEST_WAIT_SECONDS
    while is_taken(port):
        assert time.monotonic() < until
        time.sleep(0.1)


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
