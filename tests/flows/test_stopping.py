"""A signal ends the command with its code wherever it comes, and the next run makes the same."""

import signal

import pytest

from rlhf_core.recipes import load_recipe
from rlhf_core.settings.base import STAGES
from tasks.store import Store
from tests.tasks.fake_stages import replace_stages
from tests.tasks.struck import struck

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MOMENTS = {
    "when the run has its first record": "tasks.store:write_record:1:after",
    "in a stage that has no steps": "rlhf_core.stages.data:make_data:1:before",
    "before the staged folder is written to the disk": (
        "rlhf_core.artifacts:publish_folder:1:before"
    ),
    "between the artifact's rename and its commit": "tasks.store:publish_artifact:1:after",
    "between the commit and what MLflow is told": "tasks.stage_run:log_artifact:1:before",
    "in Prefect's engine, before the next stage": (
        "prefect.task_engine:_create_task_run_locally:2:before"
    ),
    "while Prefect says that a stage is finished": "log:2:Finished in state Completed",
    "in the last stage": "rlhf_core.stages.evaluation:make_evaluation:1:after",
}


def test_each_next_run_goes_on_from_where_a_signal_ended_the_last(
    prefect_server, monkeypatch, tmp_path, tiny_recipe
):
    """One store for all moments: what one run finished, the next reuses, up to the end."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", (tmp_path / "mlflow-files").as_uri())
    arguments = ("run", tiny_recipe, "--store", tmp_path / "struck")
    for number, (moment, place) in enumerate(MOMENTS.items()):
        signum = signal.SIGINT if number % 3 == 2 else signal.SIGTERM
        ended = struck(signum, place, *arguments, PREFECT_API_URL=prefect_server)

        assert ended.returncode == 128 + signum, f"{moment}: {ended.stderr}"
        assert "Traceback" not in ended.stderr, f"{moment}: {ended.stderr}"
        record = next(Store(tmp_path / "struck").run_records())
        assert record["state"] == "interrupted", moment
        assert record["failure"] == f"ended by {signum.name}", moment

    replace_stages(monkeypatch)
    from flows.rlhf import rlhf_pipeline

    recipe = load_recipe(tiny_recipe)
    found, expected = (rlhf_pipeline(recipe, tmp_path / name) for name in ("struck", "whole"))
    assert {stage: found[stage].digest for stage in STAGES} == {
        stage: expected[stage].digest for stage in STAGES
    }
    assert not list((tmp_path / "struck" / "work").iterdir())
