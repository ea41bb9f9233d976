"""Five stages through Prefect and MLflow, with stages that compute nothing."""

import importlib
import json
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from rlhf_core.artifacts import verify_artifact
from rlhf_core.data.report_file import write_report
from rlhf_core.errors import (
    ArtifactError,
    DataError,
    MemoryExhausted,
    StorageError,
    TrainingStopped,
)
from rlhf_core.recipes import load_recipe
from rlhf_core.settings.base import STAGES
from tests.tasks.fake_stages import replace_stages

FULL_DISK = 28


@pytest.fixture
def run_pipeline(prefect_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path, tiny_recipe):
    """Runs the tiny recipe with the fake stages into a store of its own."""
    replace_stages(monkeypatch)
    from flows.rlhf import rlhf_pipeline

    def run(*overrides: str):
        return rlhf_pipeline(load_recipe(tiny_recipe, overrides), tmp_path / "store")

    return run


@pytest.fixture
def mlflow_client():
    return importlib.import_module("mlflow").MlflowClient()


def fail_stage(monkeypatch: pytest.MonkeyPatch, stage: str, error: BaseException) -> None:
    def make(*arguments, **keywords):
        raise error

    monkeypatch.setattr(sys.modules[f"rlhf_core.stages.{stage}"], f"make_{stage}", make)


def read_records(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in folder.glob("*.json")]


def test_every_stage_is_published_committed_and_linked_to_its_inputs(run_pipeline, tmp_path):
    made = run_pipeline()

    assert tuple(made) == STAGES
    for handle in made.values():
        assert verify_artifact(handle.path, handle.stage).digest == handle.digest
    provenance = verify_artifact(made["ppo"].path).provenance()
    assert provenance["inputs"] == {
        role: {"stage": role, "digest": made[role].digest, "run_id": made[role].run_id}
        for role in ("data", "sft", "reward_model")
    }
    assert provenance["metrics"] == {"accuracy": 0.75, "unknown": None}
    assert provenance["fingerprint"]["settings"].keys() == {"ppo", "model"}
    assert provenance["runs"]["mlflow_run"] == made["ppo"].run_id
    assert provenance["runs"]["prefect_task_run"]
    commits = read_records(tmp_path / "store" / "commits")
    assert {commit["digest"] for commit in commits} == {h.digest for h in made.values()}
    assert list((tmp_path / "store" / "work").iterdir()) == []


def test_a_recipe_ends_at_its_last_stage(run_pipeline):
    assert list(run_pipeline("last_stage=reward_model")) == ["data", "sft", "reward_model"]


def test_mlflow_links_settings_data_models_and_parents(run_pipeline, mlflow_client):
    made = run_pipeline("seed=7")
    run = mlflow_client.get_run(made["ppo"].run_id)
    parent = mlflow_client.get_run(run.data.tags["mlflow.parentRunId"])

    assert run.data.params["ppo.updates"] == "2"
    assert run.data.params["seed"] == "7"
    assert run.data.tags["parent.sft.run_id"] == made["sft"].run_id
    assert run.data.tags["parent.reward_model.digest"] == made["reward_model"].digest
    assert run.data.tags["artifact.digest"] == made["ppo"].digest
    assert "prefect.task_run_id" in run.data.tags
    assert f"runs/{made['sft'].run_id}" in run.data.tags["mlflow.note.content"]
    (table,) = run.inputs.dataset_inputs
    assert table.dataset.name == "prompts-train"
    tags = {tag.key: tag.value for tag in table.tags}
    assert tags["mlflow.data.context"] == "train"
    assert tags["sha256"].startswith(table.dataset.digest)
    sources = {
        mlflow_client.get_logged_model(model.model_id).source_run_id
        for model in run.inputs.model_inputs
    }
    assert sources == {made["sft"].run_id, made["reward_model"].run_id}
    version = mlflow_client.get_model_version_by_alias("tiny-ppo", "candidate")
    assert version.tags["artifact.digest"] == made["ppo"].digest
    assert version.run_id == made["ppo"].run_id
    assert parent.info.status == run.info.status == "FINISHED"
    assert parent.data.params["ppo.kl_coef"] == "0.05"


def test_mlflow_has_every_reported_step_and_the_files_people_read(run_pipeline, mlflow_client):
    made = run_pipeline()

    series = mlflow_client.get_metric_history(made["sft"].run_id, "loss")
    assert [(point.step, point.value) for point in series] == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]
    files = {item.path for item in mlflow_client.list_artifacts(made["evaluation"].run_id)}
    assert "report.html" in files
    lineage = mlflow_client.list_artifacts(made["evaluation"].run_id, "lineage")
    assert {Path(item.path).name for item in lineage} == {
        "environment.json",
        "fingerprint.json",
        "lineage.html",
        "manifest.json",
        "provenance.json",
        "recipe.yaml",
    }


def test_prefect_shows_each_stage_with_a_link_to_its_mlflow_run(run_pipeline):
    from prefect.client.orchestration import get_client

    made = run_pipeline()
    with get_client(sync_client=True) as client:
        pages = {page.key: page.data for page in client.read_latest_artifacts()}

    assert f"/runs/{made['reward_model'].run_id}?workflowType" in pages["reward-model"]
    assert "| accuracy | 0.75 |" in pages["reward-model"]
    assert "graph TD" in pages["pipeline"]
    assert "reward_model --> ppo" in pages["pipeline"]
    assert pages["sft-progress"] == 100


def test_a_failing_stage_ends_its_runs_as_failed_and_keeps_its_error(
    run_pipeline, monkeypatch, mlflow_client, tmp_path
):
    fail_stage(monkeypatch, "reward_model", DataError("rows.jsonl: row 3 is empty"))

    with pytest.raises(DataError, match="row 3 is empty"):
        run_pipeline()

    (record,) = read_records(tmp_path / "store" / "runs")
    assert record["state"] == "failed"
    assert record["stages"]["reward_model"]["state"] == "failed"
    assert record["stages"]["sft"]["state"] == "done"
    parent = mlflow_client.get_run(record["run_id"])
    assert parent.info.status == "FAILED"
    assert parent.data.tags["failure"] == "DataError: rows.jsonl: row 3 is empty"


def test_a_stage_stopped_by_its_guard_leaves_its_diagnosis_and_last_good_policy(
    run_pipeline, monkeypatch, mlflow_client, tmp_path
):
    from prefect.client.orchestration import get_client

    def make(settings, model, *, out_dir, **inputs):
        (out_dir / "last_good").mkdir()
        (out_dir / "last_good" / "model.safetensors").write_bytes(b"good")
        raise TrainingStopped("PPO stopped at update 3: too far; mend it.", {"cause": "far"})

    monkeypatch.setattr(sys.modules["rlhf_core.stages.ppo"], "make_ppo", make)
    with pytest.raises(TrainingStopped) as stopped:
        run_pipeline()

    (work,) = (tmp_path / "store" / "work").glob("ppo-*")
    message = str(stopped.value)
    assert message == (
        "PPO stopped at update 3: too far; mend it. The diagnosis is in "
        f"{work / 'diagnosis.json'}, the last good policy in {work / 'last_good'}."
    )
    assert (work / "last_good" / "model.safetensors").read_bytes() == b"good"
    found = json.loads((work / "diagnosis.json").read_text())
    assert found["cause"] == "far"
    assert found["verdict"] == "PPO stopped at update 3: too far; mend it."
    (record,) = read_records(tmp_path / "store" / "runs")
    parent = mlflow_client.get_run(record["run_id"])
    (ppo,) = mlflow_client.search_runs(
        [parent.info.experiment_id], "tags.stage = 'ppo' and status = 'FAILED'"
    )
    assert ppo.data.tags["diagnosis"] == found["verdict"]
    assert "diagnosis.json" in {item.path for item in mlflow_client.list_artifacts(ppo.info.run_id)}
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(record["prefect_flow_run"]).state
    assert found["verdict"] in state.message


def rule_tables() -> list[list[dict[str, object]]]:
    """Prefect's tables of the rules, newest first."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
    from prefect.client.schemas.sorting import ArtifactSort

    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["data-rules"])),
            sort=ArtifactSort.CREATED_DESC,
        )
    return [json.loads(artifact.data) for artifact in found]


def test_refused_data_leaves_its_report_on_the_failed_run_and_in_prefect(
    run_pipeline, monkeypatch, mlflow_client, tmp_path
):
    def make(settings, model, *, out_dir, **inputs):
        rule = {"title": "null", "action": "refuse", "default": "refuse", "faults": 3}
        table = {"rows": 9, "usable": 6, "set_aside": 0, "faults_by_rule": {"SCH-001": 3}}
        facts = {"tables": {"prompts": table}, "rules": {"SCH-001": rule}, "usable": False}
        write_report(out_dir / "report.json", facts, [{"rule": "SCH-001", "line": 4}])
        (out_dir / "report.html").write_text("<p>refused</p>")
        (out_dir / "set-aside.jsonl").write_text("")
        raise DataError(f"rows.jsonl:4 is null. Full list: {out_dir / 'report.json'}")

    monkeypatch.setattr(sys.modules["rlhf_core.stages.data"], "make_data", make)
    with pytest.raises(DataError) as refused:
        run_pipeline()

    (work,) = (tmp_path / "store" / "work").glob("data-*")
    assert str(refused.value) == f"rows.jsonl:4 is null. Full list: {work / 'refused/report.json'}"
    assert json.loads((work / "refused" / "report.json").read_text())["faults"][0]["line"] == 4
    (record,) = read_records(tmp_path / "store" / "runs")
    experiment = mlflow_client.get_run(record["run_id"]).info.experiment_id
    of_run = f"tags.stage = 'data' and tags.`mlflow.parentRunId` = '{record['run_id']}'"
    (data,) = mlflow_client.search_runs([experiment], of_run)
    assert data.info.status == "FAILED"
    assert data.data.tags["failure"].startswith("DataError: rows.jsonl:4 is null.")
    assert data.data.metrics["faults_SCH-001"] == 3
    names = {item.path for item in mlflow_client.list_artifacts(data.info.run_id)}
    assert {"report.json", "report.html", "set-aside.jsonl"} <= names
    assert rule_tables()[0] == [
        {"rule": "SCH-001 null", "what is done": "refused", "faults": 3, "prompts": 3}
    ]


def test_data_that_breaks_no_rule_says_so_in_prefect(run_pipeline):
    run_pipeline("last_stage=data")
    assert rule_tables()[0] == [{"rule": "none is broken"}]


def test_an_interrupted_stage_ends_its_runs_as_killed(
    run_pipeline, monkeypatch, mlflow_client, tmp_path
):
    fail_stage(monkeypatch, "sft", KeyboardInterrupt())

    with pytest.raises(KeyboardInterrupt):
        run_pipeline()

    (record,) = read_records(tmp_path / "store" / "runs")
    assert record["state"] == record["stages"]["sft"]["state"] == "interrupted"
    assert mlflow_client.get_run(record["run_id"]).info.status == "KILLED"


def test_a_full_disk_is_named_as_such(run_pipeline, monkeypatch):
    fail_stage(monkeypatch, "sft", OSError(FULL_DISK, "No space left on device", "model"))

    with pytest.raises(StorageError, match="No space left on device"):
        run_pipeline()


def test_a_stage_without_memory_says_where_and_how_it_needs_less(run_pipeline, monkeypatch):
    def starve(settings, model, *, report, **inputs):
        report(7, {"loss": 1.0})
        return {"rows": float(len(bytearray(1 << 60)))}

    monkeypatch.setattr(sys.modules["rlhf_core.stages.ppo"], "make_ppo", starve)
    with pytest.raises(MemoryExhausted, match=r"'ppo' ran out of memory at step 8") as told:
        run_pipeline()
    assert "ppo.micro_batch_size, which is 4 now" in str(told.value)
    assert told.value.exit_code == 5


def test_a_full_disk_is_named_where_a_library_tells_it_in_words_alone(run_pipeline, monkeypatch):
    words = "Error while serializing: I/O error: No space left on device (os error 28)"
    fail_stage(monkeypatch, "sft", SafetensorError(words))

    with pytest.raises(StorageError, match="No space left on device"):
        run_pipeline()


def test_an_input_damaged_while_it_was_in_use_makes_no_artifact(
    run_pipeline, tmp_path, monkeypatch
):
    def damage(settings, model, *, sft, out_dir, **inputs):
        weights = sft / "model.safetensors"
        weights.chmod(0o644)
        weights.write_bytes(b"SEED 1")
        (out_dir / "model.safetensors").write_bytes(b"")
        return {}

    monkeypatch.setattr(sys.modules["rlhf_core.stages.reward_model"], "make_reward_model", damage)
    with pytest.raises(ArtifactError, match=r"model\.safetensors is damaged"):
        run_pipeline()
    committed = {path.name.partition("-")[0] for path in (tmp_path / "store/commits").iterdir()}
    assert committed == {"data", "sft"}
