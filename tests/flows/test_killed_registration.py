"""A kill between a stage's commit and Prefect's record of it leaves no gap in MLflow."""

import signal

import pytest

from rlhf_core.recipes import load_recipe
from tasks.store import Store
from tests.tasks.fake_stages import replace_stages
from tests.tasks.struck import struck

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MOMENTS = {
    "after the commit": "tasks.stage_run:log_artifact:2:before",
    "when its journal tells of the model": "tasks.stage_run:log_artifact:2:after",
    "before its journal ends": "tasks.tracking:_end:2:before",
    "before Prefect's record": "tasks.stage_run:Handle:2:before",
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_the_next_run_tells_mlflow_what_a_killed_one_did_not(
    moment, prefect_server, monkeypatch, tmp_path, tiny_recipe
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", (tmp_path / "mlflow-files").as_uri())
    store = tmp_path / "store"
    killed = struck(
        *(signal.SIGKILL, moment, "run", tiny_recipe, "--store", store),
        *("--set", "last_stage=sft"),
        PREFECT_API_URL=prefect_server,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (commit,) = (x for x in Store(store).commit_records() if x["stage"] == "sft")

    replace_stages(monkeypatch)
    from mlflow import MlflowClient

    from flows.rlhf import rlhf_pipeline

    made = rlhf_pipeline(load_recipe(tiny_recipe, ["last_stage=sft"]), store)

    run_id = commit["runs"]["mlflow_run"]
    assert (made["sft"].digest, made["sft"].run_id) == (commit["digest"], run_id)
    client = MlflowClient()
    experiment = client.get_experiment_by_name("tiny").experiment_id
    runs = client.search_runs([experiment], "tags.stage = 'sft'")
    assert [(run.info.run_id, run.info.status) for run in runs] == [(run_id, "FINISHED")]
    assert runs[0].data.tags["artifact.digest"] == commit["digest"]
    assert runs[0].data.tags["mlflow.parentRunId"] == commit["runs"]["mlflow_pipeline_run"]
    assert "orphan.reason" not in runs[0].data.tags
    assert len(client.get_metric_history(run_id, "accuracy")) == 1
    lineage = {file.path for file in client.list_artifacts(run_id, "lineage")}
    assert {"lineage/provenance.json", "lineage/manifest.json"} <= lineage
    (model,) = client.search_logged_models([experiment])
    assert [output.model_id for output in runs[0].outputs.model_outputs] == [model.model_id]
    (version,) = client.search_model_versions("name = 'tiny-sft'")
    assert (version.run_id, version.tags["artifact.digest"]) == (run_id, commit["digest"])
    assert client.get_model_version_by_alias("tiny-sft", "candidate").version == version.version
