"""A whole pipeline while MLflow is out of reach, and what MLflow has of it afterwards."""

import sys
import time

from rlhf_core.recipes import load_recipe
from rlhf_core.settings.base import STAGES
from tasks.leftovers import PIPELINES, ship_leftovers, unshipped
from tests.tasks.fake_stages import replace_stages

LONGEST_WAIT_SECONDS = 60


def journals(store):
    return [*store.glob("work/*"), *store.glob(f"{PIPELINES}/*")]


def test_a_pipeline_ends_without_mlflow_which_has_all_of_it_after_the_next_start(
    prefect_server, proxy, mlflow_address, tiny_recipe, tmp_path, monkeypatch
):
    from flows.rlhf import rlhf_pipeline
    from tasks.mlflow_store import mlflow_client, run_digest, runs_of_journal

    replace_stages(monkeypatch)
    monkeypatch.setattr("tasks.tracking.END_SECONDS", 0.5)
    store = tmp_path / "store"
    proxy.mode = "reset"
    recipe = load_recipe(tiny_recipe, ["name=outage"])
    made = rlhf_pipeline(recipe, store)
    assert tuple(made) == STAGES

    proxy.mode = "pass"
    while ship_leftovers(store):
        pass

    assert journals(store) == []
    assert {run_digest(handle.run_id) for handle in made.values()} == {
        handle.digest for handle in made.values()
    }
    client = mlflow_client(mlflow_address)
    runs = {}
    for stage, handle in made.items():
        (run_id,) = runs_of_journal(client, handle.run_id.removeprefix("local-"))
        runs[stage] = client.get_run(run_id)
    parents = {run.data.tags["mlflow.parentRunId"] for run in runs.values()}
    (pipeline,) = (client.get_run(parent) for parent in parents)
    assert {run.info.status for run in [pipeline, *runs.values()]} == {"FINISHED"}
    assert runs["ppo"].data.tags["parent.sft.run_id"] == runs["sft"].info.run_id
    sources = {
        client.get_logged_model(model.model_id).source_run_id
        for model in runs["ppo"].inputs.model_inputs
    }
    assert sources == {runs["sft"].info.run_id, runs["reward_model"].info.run_id}
    version = client.get_model_version_by_alias("outage-ppo", "candidate")
    assert version.run_id == runs["ppo"].info.run_id
    assert f"/runs/{runs['sft'].info.run_id}" in pipeline.data.tags["mlflow.note.content"]


def test_when_mlflow_answers_again_the_stages_before_are_told_to_it_while_the_run_goes_on(
    prefect_server, proxy, mlflow_address, tiny_recipe, tmp_path, monkeypatch
):
    from flows.rlhf import rlhf_pipeline
    from tasks.mlflow_store import mlflow_client, run_digest, runs_of_journal

    replace_stages(monkeypatch)
    monkeypatch.setattr("tasks.tracking.END_SECONDS", 0.5)
    monkeypatch.setattr("tasks.leftovers.LATE_SECONDS", 0.1)
    monkeypatch.setattr("tasks.shipper.LONGEST_PAUSE_SECONDS", 0.2)
    store = tmp_path / "store"
    make_ppo = sys.modules["rlhf_core.stages.ppo"].make_ppo
    waiting = []

    def ppo_with_mlflow_back(*arguments, report, **others):
        made = make_ppo(*arguments, report=report, **others)
        waiting.append(len(unshipped(store)))
        proxy.mode = "pass"
        monkeypatch.setattr("tasks.tracking.END_SECONDS", LONGEST_WAIT_SECONDS)
        until = time.monotonic() + LONGEST_WAIT_SECONDS
        while unshipped(store) and time.monotonic() < until:
            time.sleep(0.05)
        waiting.append(len(unshipped(store)))
        return made

    monkeypatch.setattr(sys.modules["rlhf_core.stages.ppo"], "make_ppo", ppo_with_mlflow_back)
    proxy.mode = "reset"
    made = rlhf_pipeline(load_recipe(tiny_recipe, ["name=comes-back"]), store)

    assert waiting == [5, 0]  # data, sft, reward_model, and the open runs of ppo and the pipeline
    assert journals(store) == []
    client = mlflow_client(mlflow_address)
    runs = {}
    for stage, handle in made.items():
        journal = handle.run_id.removeprefix("local-")
        (run_id,) = runs_of_journal(client, journal) if journal != handle.run_id else (journal,)
        assert run_digest(run_id) == handle.digest
        runs[stage] = client.get_run(run_id)
        assert runs[stage].info.status == "FINISHED"
    for stage in ("sft", "reward_model", "ppo"):
        points = client.get_metric_history(runs[stage].info.run_id, "loss")
        assert [(point.step, point.value) for point in points] == [(1, 1), (2, 1 / 2), (3, 1 / 3)]
    sources = {
        client.get_logged_model(model.model_id).source_run_id
        for model in runs["ppo"].inputs.model_inputs
    }
    assert sources == {runs["sft"].info.run_id, runs["reward_model"].info.run_id}
