"""The command tells faults in one sentence, with the exit code that says whose they are."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_core.errors import StorageError
from tasks import environment
from tests.flows.command import rlhf

USERS_FAULT = 2


def modules_after(code: str) -> set[str]:
    """Which of the heavy libraries are loaded after running `code` in a new process."""
    shown = f"{code}\nimport sys, json\nprint()\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "prefect", "mlflow", "datasets", "pandera"}
    return heavy & set(json.loads(done.stdout.splitlines()[-1]))


def test_a_misspelt_setting_is_named_with_the_nearest_right_one(tiny_recipe):
    done = rlhf("run", tiny_recipe, "--set", "ppo.kl_coeff=0.1")

    assert done.returncode == USERS_FAULT
    assert done.stdout == ""
    assert done.stderr.startswith("rlhf: --set ppo.kl_coeff:")
    assert "'kl_coef'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_recipe_is_read_before_any_heavy_library():
    assert modules_after("import flows.cli") == set()


def test_check_of_rows_in_order_loads_neither_what_trains_nor_what_validates(tiny_recipe):
    code = (
        "from flows.cli import cli\n"
        f"cli.main(['check', {str(tiny_recipe)!r}], standalone_mode=False)"
    )
    assert modules_after(code) == set()


def test_a_plan_loads_neither_prefect_nor_mlflow_nor_torch(tiny_recipe, tmp_path):
    arguments = ["plan", str(tiny_recipe), "--store", str(tmp_path)]
    code = f"from flows.cli import cli\ncli.main({arguments!r}, standalone_mode=False)"
    assert modules_after(code) == set()


def test_an_empty_store_has_nothing_to_list_or_free(tmp_path):
    for command in (("ls",), ("du",), ("gc",)):
        done = rlhf("store", *command, "--store", tmp_path / "new")
        assert (done.returncode, done.stderr) == (0, "")
    assert "0 B were freed" in done.stdout


DEAD_SERVER = "http://127.0.0.1:9/api"


@pytest.mark.parametrize(
    "command, arguments, said",
    [
        ("serve", ["--cron", "0 3 * * *", "--interval", "6h"], "--cron or --interval"),
        ("serve", ["--interval", "soon"], "'soon' is no span of time such as 90s"),
        ("serve", ["--interval", "0s"], "'0s' is no span of time"),
        ("serve", ["--interval", "9" * 20], "is no span of time"),
        ("serve", ["--cron", "0 25 * * *"], "--cron '0 25 * * *' is no time that ever comes"),
        ("serve", ["--cron", "0 0 31 2 *"], "--cron '0 0 31 2 *' is no time that ever comes"),
        ("serve", ["--overlap", "kill"], "'kill' is not one of 'skip', 'queue'"),
        ("serve", ["--prefect-port", "70000"], "70000 is not in the range 1<=x<=65535"),
        ("deploy", ["--pool", "gpu"], "PREFECT_API_URL is not set"),
        ("deploy", [], "Missing option '--pool'"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_before_a_server_starts(
    command, arguments, said, tiny_recipe, tmp_path
):
    done = rlhf(command, tiny_recipe, "--store", tmp_path / "store", *arguments)

    assert done.returncode == USERS_FAULT
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [("serve",), ("deploy", "--pool", "gpu")], ids=lambda x: x[0])
def test_a_prefect_server_that_does_not_answer_is_named(command, tiny_recipe, tmp_path):
    done = rlhf(*command, tiny_recipe, "--store", tmp_path, PREFECT_API_URL=DEAD_SERVER)

    assert done.returncode == USERS_FAULT
    assert f"No Prefect server answers at PREFECT_API_URL={DEAD_SERVER}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["serve", "ui"])
def test_a_port_that_another_program_has_is_refused(command, tiny_recipe, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        recipe = [tiny_recipe] if command == "serve" else []
        done = rlhf(command, *recipe, "--store", tmp_path, "--prefect-port", port)

    assert done.returncode == USERS_FAULT
    assert f"Port {port} of 127.0.0.1 cannot be had for Prefect's server" in done.stderr


def test_two_recipes_of_one_name_are_not_served_together(tiny_recipe, tmp_path):
    done = rlhf("serve", tiny_recipe, tiny_recipe, "--store", tmp_path)
    assert done.returncode == USERS_FAULT
    assert "Two of the recipes are named 'tiny'" in done.stderr


def test_a_stage_beyond_the_recipes_last_cannot_be_forced(tiny_recipe, tmp_path):
    done = rlhf(
        *("run", tiny_recipe, "--store", tmp_path),
        *("--set", "last_stage=sft", "--force", "ppo"),
    )
    assert done.returncode == USERS_FAULT
    assert "the recipe ends at sft" in done.stderr


def test_check_prints_the_data_report_and_keeps_nothing(tiny_recipe, tmp_path):
    done = rlhf("check", tiny_recipe, "--json", TMPDIR=str(tmp_path))

    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert document["report"]["tables"]["demonstrations"]["rows"] == 240
    assert list(tmp_path.glob("rlhf-check-*")) == []


def test_check_names_a_bad_row_by_file_and_line(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "response": "b"}\n{"prompt": "", "response": "b"}\n')
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"name: bad\nlast_stage: sft\ndata: {{demonstrations: {{source: {rows}}}}}\n"
        "model: {scratch: {}}\n"
    )
    done = rlhf("check", recipe)

    assert done.returncode == USERS_FAULT
    assert "rows.jsonl:2" in done.stderr
    assert "Traceback" not in done.stderr


WRAPPING = """
import signal, sys
from flows import cli
from flows.commands import run

def read(*_):
    try:
        signal.raise_signal(signal.{name})
    except BaseException as error:
        raise ValueError("what a library makes of it") from error

run.load_recipe = read
sys.argv = ["rlhf", "plan", {recipe!r}]
cli.main()
"""


@pytest.mark.parametrize("name, code", [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_in_a_library_that_wraps_it_is_still_that_signal(name, code, tiny_recipe):
    command = [sys.executable, "-c", WRAPPING.format(name=name, recipe=str(tiny_recipe))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_runs_of_an_empty_store_are_none(tmp_path):
    done = rlhf("runs", "--store", tmp_path, "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


def test_lineage_of_a_folder_without_manifest_is_refused(tmp_path):
    done = rlhf("lineage", tmp_path, "--store", tmp_path / "store")
    assert done.returncode == USERS_FAULT
    assert "holds no manifest.json" in done.stderr


def test_a_store_that_cannot_be_made_is_a_storage_fault(tiny_recipe, tmp_path):
    (tmp_path / "file").write_text("")
    done = rlhf("run", tiny_recipe, "--store", tmp_path / "file" / "store")
    assert done.returncode == 4
    assert "cannot be made" in done.stderr


def test_a_store_that_is_a_link_to_nothing_is_not_made_elsewhere(tiny_recipe, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "store")
    done = rlhf("run", tiny_recipe, "--store", tmp_path / "link")
    assert done.returncode == 4
    assert done.stderr.startswith(f"rlhf: The store {tmp_path / 'link'} is a link to")
    assert not (tmp_path / "disk").exists()


def test_a_question_mark_in_the_stores_path_is_refused(tiny_recipe, tmp_path):
    done = rlhf("run", tiny_recipe, "--store", tmp_path / "what?")
    assert done.returncode == USERS_FAULT
    assert "question mark" in done.stderr


def test_a_disk_without_room_is_refused_with_both_numbers(tmp_path, monkeypatch):
    environment.check_store_room(tmp_path)
    room = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(environment, "LEAST_FREE_BYTES", 2 * room)
    with pytest.raises(StorageError, match=r"[\d,]+ bytes free, but [\d,]+ are needed"):
        environment.check_store_room(tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        *("run", "plan", "rerun", "check", "lineage", "runs", "store", "ui"),
        *("serve", "deploy", "recipe"),
    ],
)
def test_every_command_explains_itself(command):
    done = rlhf(command, "--help")
    assert done.returncode == 0
    assert f"Usage: rlhf {command}" in done.stdout


def test_the_schema_of_a_recipe_is_json_schema():
    schema = json.loads(rlhf("recipe", "schema").stdout)
    assert schema["properties"]["seed"]["default"] == 1
    assert schema["additionalProperties"] is False


def test_the_users_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tasks.environment import prepare_environment

    for name in ("PREFECT_HOME", "PREFECT_API_URL", "_MLFLOW_SERVER_ARTIFACT_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RLHF_STORE", "elsewhere")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    monkeypatch.setenv("DO_NOT_TRACK", "true")
    import os

    with monkeypatch.context() as patched:
        patched.setattr(os, "environ", dict(os.environ))
        prepare_environment(tmp_path)
        environment = os.environ

    assert environment["MLFLOW_TRACKING_URI"] == "http://tracking:5000"
    assert "_MLFLOW_SERVER_ARTIFACT_ROOT" not in environment
    assert environment["DO_NOT_TRACK"] == "true"
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["PREFECT_HOME"] == str(tmp_path / "prefect")


def test_a_deployment_takes_our_variables_along_and_no_login(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RLHF_HEARTBEAT_SECONDS", "7")
    monkeypatch.setenv("RLHF_OPENLINEAGE", "http://user:secret@marquez:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@tracking:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")

    taken = environment.shared_environment()

    assert taken["RLHF_HEARTBEAT_SECONDS"] == "7"
    assert not [value for value in taken.values() if "secret" in value]
