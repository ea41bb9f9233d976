"""The Prefect server of a command that has none configured ends with it, and not before."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.flows.command import start_rlhf

pytestmark = pytest.mark.slow

SECONDS_TO_END = 60

SERVE = """
import time
from flows.temporary_server import TemporaryServer

server = TemporaryServer()
server.start()
print(server.port, server.server_process.pid, flush=True)
time.sleep(600)
"""


def is_served(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ignored_signals(pid: int) -> set[int]:
    mask = re.search(r"SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return {number + 1 for number in range(64) if int(mask[1], 16) >> number & 1}


def ends(port: int) -> bool:
    until = time.monotonic() + SECONDS_TO_END
    while is_served(port) and time.monotonic() < until:
        time.sleep(0.1)
    return not is_served(port)


def test_the_server_hears_no_signal_and_ends_when_its_command_is_killed():
    with subprocess.Popen(
        [sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as command:
        port, server = map(int, command.stdout.readline().split())
        assert os.getpgid(server) != command.pid
        assert {signal.SIGTERM, signal.SIGINT} <= ignored_signals(server)
        os.killpg(command.pid, signal.SIGKILL)
    assert ends(port)


def test_ctrl_c_reaches_the_whole_group_and_the_run_still_ends_well(tiny_recipe, tmp_path):
    endless = ("--set", "sft.epochs=100000", "--set", "last_stage=sft")
    said = []
    with start_rlhf("run", tiny_recipe, "--store", tmp_path / "store", *endless) as process:
        for line in process.stderr:
            said.append(line)
            if "Task run 'sft' - step " in line:
                break
        os.killpg(process.pid, signal.SIGINT)
        _, rest = process.communicate(timeout=SECONDS_TO_END)

    assert process.returncode == 130, rest
    assert "Traceback" not in rest
    assert "ended by SIGINT with the state saved" in rest
    port = re.search(r"temporary server on http://127.0.0.1:(\d+)", "".join(said))
    assert port is not None
    assert ends(int(port[1]))


def test_several_servers_make_the_tables_of_one_new_database(tmp_path):
    """Each command of a new store starts one; together they would spoil it."""
    environment = os.environ | {"PREFECT_HOME": str(tmp_path / "prefect")}
    commands = [
        subprocess.Popen(
            [sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(3)
    ]
    try:
        ports = [int(command.stdout.readline().split()[0]) for command in commands]
        assert all(is_served(port) for port in ports)
    finally:
        for command in commands:
            command.kill()
            command.wait()
            command.stdout.close()


def test_a_database_that_is_none_is_named_after_a_few_tries(tmp_path):
    home = tmp_path / "prefect"
    home.mkdir()
    (home / "prefect.db").write_bytes(bytes(range(256)) * 80)
    done = subprocess.run(
        [sys.executable, "-c", SERVE],
        env=os.environ | {"PREFECT_HOME": str(home)},
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS_TO_END * 4,
    )
    last = done.stderr.splitlines()[-1]
    assert "StorageError: Prefect's own server does not start" in last
    assert str(home) in last
