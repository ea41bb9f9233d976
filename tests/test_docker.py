"""What the files of docker/ promise: loopback ports, no default password, no root."""

import configparser
import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.commands.schedule import serve

PROJECT = Path(__file__).parents[1]
DOCKER = PROJECT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (DOCKER / "Dockerfile").read_text()

each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)

SECRET = re.compile(r"PASSWORD|SECRET|AUTH_STRING|TOKEN|KEY$")
REQUIRED = re.compile(r"(?:admin:)?\$\{[A-Z_]+:\?[^}]+\}")
"""A variable without which compose refuses to start; before it at most the account's name."""


def secrets(service: dict[str, Any]) -> dict[str, str]:
    return {name: x for name, x in service["environment"].items() if SECRET.search(name)}


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.+)$", DOCKERFILE, re.MULTILINE)


def test_the_stack_is_two_servers_and_a_worker():
    assert set(SERVICES) == {"mlflow", "prefect-server", "worker"}


@each_service
def test_every_port_is_on_loopback_only(service):
    assert service.get("network_mode") is None
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@each_service
def test_no_secret_has_a_default(service):
    assert secrets(service)
    for name, value in secrets(service).items():
        assert REQUIRED.fullmatch(value), f"{name}: {value}"


def test_the_example_names_every_secret_and_fills_in_none():
    lines = (DOCKER / "example.env").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    asked = {
        re.search(r"\$\{(\w+):\?", value)[1]
        for service in SERVICES.values()
        for value in secrets(service).values()
    }
    assert example == dict.fromkeys(asked, "")


@each_service
def test_a_service_runs_one_image_of_ours_without_privileges(service):
    assert service["image"] == "rlhf:local"
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "user", "cap_add", "devices", "pid", "ipc"} & set(service)
    assert all(volume.split(":")[0] in COMPOSE["volumes"] for volume in service["volumes"])


@each_service
def test_a_service_tells_whether_it_is_well(service):
    kind, command, *_ = service["healthcheck"]["test"]
    assert (kind, command) == ("CMD", "python")
    assert service["restart"] == "unless-stopped"


def test_the_worker_waits_until_both_servers_are_well():
    assert SERVICES["worker"]["depends_on"] == {
        server: {"condition": "service_healthy"} for server in ("mlflow", "prefect-server")
    }


@each_service
def test_a_command_is_one_that_the_image_holds(service):
    installed = {point.name for point in entry_points(group="console_scripts")}
    assert service["command"][0] in installed


def test_the_worker_serves_recipes_that_the_image_holds_one_run_of_each_at_a_time():
    program, command, *arguments = SERVICES["worker"]["command"]
    assert (program, command) == ("rlhf", "serve")
    given = serve.make_context("serve", arguments).params
    assert given["overlap"] == "queue"  # whoever asks for a second run gets it afterwards
    assert (given["cron"], given["interval"]) == (None, None)
    assert "COPY recipes recipes" in DOCKERFILE
    assert all((PROJECT / recipe).is_file() for recipe in given["recipes"])


def test_mlflow_asks_for_a_login_and_answers_to_exact_names_only():
    options = dict(
        option.removeprefix("--").split("=", 1) for option in SERVICES["mlflow"]["command"][2:]
    )
    assert options["app-name"] == "basic-auth"
    assert "*" not in options["allowed-hosts"] + options["cors-allowed-origins"]
    assert all(host.count(":") in (1, 2) for host in options["allowed-hosts"].split(","))
    assert SERVICES["mlflow"]["environment"]["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    login = configparser.ConfigParser()
    login.read(DOCKER / "mlflow-auth.ini")
    assert "admin_password" not in login["mlflow"]


def test_prefect_answers_to_exact_origins_only():
    environment = SERVICES["prefect-server"]["environment"]
    assert "*" not in environment["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"]
    assert environment["PREFECT_SERVER_UI_API_URL"] == "/api"


def test_prefect_unpacks_its_pages_where_an_ordinary_user_may_write():
    service = SERVICES["prefect-server"]
    places = [volume.split(":")[1] for volume in service["volumes"]]
    pages = service["environment"]["PREFECT_SERVER_UI_STATIC_DIRECTORY"]
    assert any(pages.startswith(f"{place}/") for place in places)


def test_the_image_runs_as_an_ordinary_user_and_reports_to_nobody():
    assert instructions("USER") == ["rlhf"]
    assert "--uid 10001" in DOCKERFILE
    for setting in ("DO_NOT_TRACK=1", "MLFLOW_DISABLE_TELEMETRY=true"):
        assert setting in DOCKERFILE


def test_images_are_named_by_version_and_never_latest():
    assert "latest" not in DOCKERFILE + (DOCKER / "compose.yaml").read_text()
    bases = [base.split(" AS ")[0] for base in instructions("FROM")]
    assert set(bases) == {"${BASE_IMAGE}"}
    default = re.search(r"^ARG BASE_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)[1]
    assert re.fullmatch(r"python:3\.\d+-\S+", default)
    assert default in SERVICES["worker"]["build"]["args"]["BASE_IMAGE"]


def test_the_build_sees_only_what_it_copies():
    ignored = (PROJECT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {
        source
        for copy in instructions("COPY")
        if not copy.startswith("--from")
        for source in copy.split()[:-1]
    }
    assert copied == sent
    assert all((PROJECT / source).exists() for source in copied)
