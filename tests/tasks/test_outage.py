"""A whole pipeline while MLflow is out of reach, and what MLflow has of it afterwards."""

from rlhf_core.recipes import load_recipe
from rlhf_core.settings.base import STAGES
from tasks.leftovers import PIPELINES, ship_leftovers
from tests.tasks.fake_stages import replace_stages


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

    assert [*store.glob("work/*"), *store.glob(f"{PIPELINES}/*")] == []
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
