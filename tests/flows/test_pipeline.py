"""The whole pipeline for real, by the command, on a handful of rows."""

import json
import signal
import time
from pathlib import Path

import pytest

from rlhf_core.artifacts import verify_artifact
from rlhf_core.settings.base import STAGES
from tests.evaluation.served import served
from tests.flows.command import rlhf, start_rlhf

pytestmark = pytest.mark.slow

LONGEST_WAIT_SECONDS = 120
LONGEST_REUSE_SECONDS = 10


@pytest.fixture
def servers(prefect_server: str, tmp_path: Path) -> dict[str, str]:
    """Environment of a command that uses the tests' Prefect server and an MLflow of its own."""
    return {
        "PREFECT_API_URL": prefect_server,
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": (tmp_path / "mlflow-artifacts").as_uri(),
    }


def run_json(recipe: Path, store: Path, servers: dict[str, str]) -> dict:
    done = rlhf("run", recipe, "--store", store, "--json", **servers)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.timeout(900)  # two whole runs, and a dozen commands on what they made
def test_a_recipe_runs_to_the_end_twice_with_the_same_bits_and_traces_to_its_files(
    tiny_recipe, tmp_path, servers
):
    first = run_json(tiny_recipe, tmp_path / "a", servers)
    second = run_json(tiny_recipe, tmp_path / "b", servers)

    assert tuple(first["stages"]) == STAGES
    digests = {stage: facts["digest"] for stage, facts in first["stages"].items()}
    assert digests == {stage: facts["digest"] for stage, facts in second["stages"].items()}
    for stage, facts in first["stages"].items():
        assert verify_artifact(Path(facts["path"]), stage).digest == digests[stage]
    report = Path(first["stages"]["evaluation"]["path"]) / "report.html"
    assert "<html" in report.read_text()
    lineage = rlhf("lineage", digests["ppo"][:10], "--store", tmp_path / "a")
    assert lineage.returncode == 0
    assert "file demonstrations.jsonl" in lineage.stdout
    assert f"reward_model {digests['reward_model'][:12]}" in lineage.stdout
    runs = rlhf("runs", "--store", tmp_path / "a")
    assert digests["evaluation"][:12] in runs.stdout
    check_samples(tmp_path / "a", digests)
    check_reuse(tiny_recipe, tmp_path / "a", digests)
    check_collection(tmp_path / "a", digests, tmp_path)


def check_samples(store: Path, digests: dict[str, str]) -> None:
    """Sampling answers held-out prompts, alike for one seed, and only from a policy."""
    first, second = (
        rlhf("sample", digests["ppo"], "--store", store, "--json", "--seed", "3") for _ in range(2)
    )
    assert first.returncode == 0, first.stderr
    assert len(json.loads(first.stdout)["responses"]) == 5
    assert first.stdout == second.stdout
    refused = rlhf("sample", digests["reward_model"], "--store", store)
    assert refused.returncode == 2
    assert "holds no policy" in refused.stderr
    assert "Traceback" not in refused.stderr


def check_collection(store: Path, digests: dict[str, str], folder: Path) -> None:
    """A policy's answers are ranked in a file that tells whose they are, and read as rankings."""
    file = folder / "ranked.jsonl"
    labeler = "tests.stages.test_collecting:fewer_words"  # a tiny policy's gold is often 0
    options = ("--count", "40", "--responses", "4", "--labeler", labeler, "--store", store)
    done = rlhf("collect", digests["sft"], "-o", file, *options, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["policy"] == digests["sft"]
    again = rlhf("collect", digests["sft"], "-o", file, *options)
    assert again.returncode == 2
    assert "exists" in again.stderr
    check_judged_collection(store, digests["sft"], folder / "judged.jsonl")

    recipe = folder / "collected.yaml"
    recipe.write_text(
        "name: collected\nlast_stage: data\n"
        f"data: {{preferences: {{source: {file}}}, demonstrations: {{source: {file}}}}}\n"
        "model: {scratch: {}}\n"
    )
    checked = rlhf("run", recipe, "--store", store, "--json")
    assert checked.returncode == 0, checked.stderr
    data = json.loads(checked.stdout)["stages"]["data"]["digest"]
    lineage = rlhf("lineage", data, "--store", store)
    assert f"responses of policy {digests['sft'][:12]}, ranked by {labeler}" in lineage.stdout


def check_judged_collection(store: Path, policy: str, file: Path) -> None:
    """A served judge ranks, and the origin tells which, but not where it was served."""
    with served(lambda _: "A") as (address, seen):
        options = ("--judge", address, "--judge-model", "served one", "--count", "4")
        done = rlhf("collect", policy, "-o", file, *options, "--store", store)
    assert done.returncode == 0, done.stderr
    assert {body["model"] for body in seen} == {"served one"}
    origin = (file.parent / f"{file.name}.origin.json").read_text()
    assert "judge served one" in origin
    assert address not in origin
    alone = rlhf(
        "collect", policy, "-o", file.with_name("no"), "--judge", "http://h", "--store", store
    )
    assert alone.returncode == 2
    assert "--judge-model" in alone.stderr


def check_reuse(recipe: Path, store: Path, digests: dict[str, str]) -> None:
    """The same recipe again is answered from the store, without any server, and a plan says why."""
    started = time.monotonic()
    again = rlhf("run", recipe, "--store", store, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert time.monotonic() - started < LONGEST_REUSE_SECONDS
    assert again.returncode == 0, again.stderr
    assert "All five stages were reused" in again.stdout
    assert all(digest[:12] in again.stdout for digest in digests.values())
    listed = json.loads(rlhf("store", "ls", "--store", store, "--json").stdout)
    assert {artifact["digest"] for artifact in listed} == set(digests.values())
    plan = rlhf("plan", recipe, "--store", store, "--set", "ppo.kl_coef=0.25", "--json")
    planned = {stage["stage"]: stage for stage in json.loads(plan.stdout)["stages"]}
    assert planned["reward_model"]["digest"] == digests["reward_model"]
    assert planned["ppo"]["reasons"] == ["ppo.kl_coef: 0.05 -> 0.25"]


def stage_state(store: Path, stage: str) -> str | None:
    for path in (store / "runs").glob("[!.]*.json"):
        return json.loads(path.read_text())["stages"].get(stage, {}).get("state")
    return None


@pytest.mark.parametrize(
    "number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_a_signal_ends_the_run_with_its_code_and_no_run_stays_open(
    number, code, tiny_recipe, tmp_path, servers
):
    store = tmp_path / "store"
    endless = ("--set", "sft.epochs=100000", "--set", "last_stage=sft")
    with start_rlhf("run", tiny_recipe, "--store", store, *endless, **servers) as process:
        assert process.stderr is not None
        assert any("Task run 'sft' - step " in line for line in process.stderr)
        process.send_signal(number)
        _, err = process.communicate(timeout=LONGEST_WAIT_SECONDS)

    assert process.returncode == code, err
    assert stage_state(store, "sft") == "interrupted"
