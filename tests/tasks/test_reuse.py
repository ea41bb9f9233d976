"""A finished stage is used again, and only if every byte of it is as it was."""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from rlhf_core.artifacts import sha256_of
from rlhf_core.errors import ArtifactError, DataError, Stopped, StorageError, UserError
from rlhf_core.recipes import load_recipe
from rlhf_core.settings.base import STAGES
from tasks.commits import committed_handle, recall
from tasks.locks import hold
from tasks.reruns import plan_rerun
from tasks.store import Store
from tests.tasks.committed import commit_recipe
from tests.tasks.fake_stages import replace_stages


@pytest.fixture
def pipeline(prefect_server, monkeypatch, tmp_path, tiny_recipe):
    """Runs the tiny recipe with fake stages, and knows which of them were computed."""
    replace_stages(monkeypatch)
    from flows.rlhf import rlhf_pipeline

    ran: list[str] = []
    for stage in STAGES:
        module = sys.modules[f"rlhf_core.stages.{stage}"]
        count_calls(monkeypatch, module, stage, ran)

    def run(*overrides: str, **arguments) -> list[str]:
        ran.clear()
        rlhf_pipeline(load_recipe(tiny_recipe, overrides), tmp_path / "store", **arguments)
        return list(ran)

    return run


def count_calls(monkeypatch, module, stage: str, ran: list[str]) -> None:
    make = getattr(module, f"make_{stage}")

    def counted(settings, model, *, out_dir, **arguments) -> Mapping[str, float]:
        ran.append(stage)
        if stage not in ("data", "evaluation"):
            (out_dir / "settings.json").write_text(settings.model_dump_json())
        return make(settings, model, out_dir=out_dir, **arguments)

    monkeypatch.setattr(module, f"make_{stage}", counted)


def fail_once(monkeypatch, stage: str, error: BaseException) -> None:
    module = sys.modules[f"rlhf_core.stages.{stage}"]
    make = getattr(module, f"make_{stage}")

    def failing(*arguments, **keywords):
        monkeypatch.setattr(module, f"make_{stage}", make)
        raise error

    monkeypatch.setattr(module, f"make_{stage}", failing)


def newest_run(store: Path) -> dict:
    return next(Store(store).run_records())


def test_a_second_run_computes_nothing_and_says_whose_results_it_uses(pipeline, tmp_path):
    store = tmp_path / "store"
    assert pipeline() == list(STAGES)
    first = newest_run(store)

    assert pipeline() == []

    second = newest_run(store)
    assert second["run_id"] != first["run_id"]
    for stage, facts in second["stages"].items():
        assert facts["state"] == "reused"
        assert facts["digest"] == first["stages"][stage]["digest"]
        assert facts["run_id"] == first["stages"][stage]["run_id"]
        assert facts["made"]["pipeline_run"] == first["run_id"]
    shutil.rmtree(store / "stages")  # a kill between commit and Prefect's record leaves none
    assert pipeline("ppo.kl_coef=0.25") == ["ppo", "evaluation"]
    assert pipeline("ppo.kl_coef=0.25", force=("sft",)) == ["sft"]


def test_a_failed_run_goes_on_from_its_failed_stage_with_its_own_inputs(
    pipeline, monkeypatch, tmp_path
):
    store = Store(tmp_path / "store")
    fail_once(monkeypatch, "reward_model", DataError("row 3"))
    with pytest.raises(DataError, match="row 3"):
        pipeline()
    failed = newest_run(store.folder)
    again = plan_rerun(store, failed["run_id"][:8], None)

    assert list(again.taken) == ["data", "sft"]
    assert again.force == ()
    assert again.folder == Path.cwd()
    overrides = ["sft.epochs=7"]  # what has changed since is no concern of a rerun
    assert pipeline(*overrides, taken=dict(again.taken)) == ["reward_model", "ppo", "evaluation"]
    done = newest_run(store.folder)
    assert done["stages"]["sft"]["digest"] == failed["stages"]["sft"]["digest"]


def test_a_stage_that_another_process_makes_is_not_made_twice(pipeline, tmp_path, tiny_recipe):
    from tasks.handles import stage_job

    key = stage_job(load_recipe(tiny_recipe), "data").key
    with (
        hold(Store(tmp_path / "store").lock(key)),
        pytest.raises(StorageError, match=f"is being made by process {os.getpid()} on "),
    ):
        pipeline()
    assert newest_run(tmp_path / "store")["state"] == "failed"


@pytest.fixture
def finished(tmp_path, tiny_recipe) -> Store:
    """A store in which every stage is finished, and Prefect has its records."""
    from tasks.reuse import _result

    store = Store(tmp_path / "finished")
    commit_recipe(load_recipe(tiny_recipe), store)
    store.stages.mkdir()
    for path in store.commits.iterdir():
        result = _result(committed_handle(store, store.read_commit(path.stem)))
        record = {"metadata": {"storage_key": path.stem}, "result": json.dumps(result)}
        (store.stages / path.stem).write_text(json.dumps(record))
    return store


def key_of(store: Store, stage: str) -> str:
    return next(store.commits.glob(f"{stage}-*.json")).stem


def test_a_record_that_names_its_commits_artifact_is_used(finished):
    from tasks.reuse import record_fault

    assert [record_fault(finished, key_of(finished, stage)) for stage in STAGES] == [None] * 5


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "other", "no object"])
def test_a_damaged_record_is_told_and_not_used(damage, finished):
    from tasks.reuse import record_fault

    path = finished.stages / key_of(finished, "sft")
    content = path.read_bytes()
    digest = recall(finished, path.name).commit["digest"].encode()
    flipped = bytes([digest[0] ^ 1]) + digest[1:]
    path.write_bytes(
        {
            "truncated": content[: len(content) // 2],
            "empty": b"",
            "flipped": content.replace(digest, flipped),
            "other": b'{"result": "7"}',
            "no object": b"[]",
        }[damage]
    )
    assert str(path) in str(record_fault(finished, path.name))


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "gone", "extra"])
def test_a_damaged_artifact_is_told_and_not_used(damage, finished):
    from tasks.reuse import record_fault

    key = key_of(finished, "ppo")
    folder = finished.object_folder(finished.read_commit(key)["digest"])
    payload = folder / "payload"
    payload.chmod(0o644)
    content = payload.read_bytes()
    if damage == "gone":
        shutil.rmtree(folder)
    elif damage == "extra":
        (folder / "more").write_text("")
    else:
        flipped = bytes([content[0] ^ 1]) + content[1:]
        payload.write_bytes({"truncated": content[:-1], "empty": b"", "flipped": flipped}[damage])

    assert recall(finished, key).commit is None
    assert str(folder) in str(record_fault(finished, key))


def test_a_damaged_artifact_gives_way_to_the_same_one_made_again(finished, tiny_recipe):
    key = key_of(finished, "sft")
    payload = finished.object_folder(finished.read_commit(key)["digest"]) / "payload"
    payload.chmod(0o644)
    payload.write_bytes(b"")

    commit_recipe(load_recipe(tiny_recipe), finished, stages=("data", "sft"))

    assert recall(finished, key).commit is not None


def write_run(store: Store, recipe: Path, **states: str) -> None:
    """A record of a run whose stages have these states, in their order."""
    commits = {commit["stage"]: commit["digest"] for commit in store.commit_records()}
    stages = {
        stage: {"state": state} | ({"digest": commits[stage]} if state != "failed" else {})
        for stage, state in states.items()
    }
    store.write_recipe("run-abc", recipe.read_text())
    store.write_run("run-abc", {"run_id": "run-abc", "folder": ".", "stages": stages})


def test_a_rerun_refuses_an_input_damaged_since_and_offers_to_make_it_again(finished, tiny_recipe):
    write_run(finished, tiny_recipe, data="done", sft="reused", reward_model="failed")
    digest = finished.read_commit(key_of(finished, "sft"))["digest"]
    payload = finished.object_folder(digest) / "payload"
    payload.chmod(0o644)
    payload.write_bytes(b"?")

    with pytest.raises(ArtifactError) as refused:
        plan_rerun(finished, "run-ab", None)

    assert digest in str(refused.value)
    assert "rlhf rerun run-abc --from sft" in str(refused.value)
    assert plan_rerun(finished, "run-abc", "sft").force == ("sft",)


def test_a_rerun_that_cannot_be_meant_is_refused(finished, tiny_recipe):
    write_run(finished, tiny_recipe, data="done", sft="failed")
    with pytest.raises(UserError, match="never finished sft, which ppo needs"):
        plan_rerun(finished, "run-abc", "ppo")
    with pytest.raises(UserError, match="no pipeline run whose id begins with 'xyzxyz'"):
        plan_rerun(finished, "xyzxyz", None)
    write_run(finished, tiny_recipe, **dict.fromkeys(STAGES, "done"))
    with pytest.raises(UserError, match="finished all its stages"):
        plan_rerun(finished, "run-abc", None)
    finished.recipe_path("run-abc").unlink()
    with pytest.raises(ArtifactError, match="the recipe of run run-abc is not known"):
        plan_rerun(finished, "run-abc", None)


def test_a_rerun_takes_no_recipe_or_record_that_was_changed_since(finished, tiny_recipe):
    write_run(finished, tiny_recipe, data="done", sft="failed")
    recipe = finished.recipe_path("run-abc")
    record = finished.read_run("run-abc") | {"recipe_sha256": sha256_of(recipe)}
    finished.write_run("run-abc", record)
    assert plan_rerun(finished, "run-abc", None).recipe.sft.learning_rate == 0.02
    text = recipe.read_text()

    recipe.write_text(text.replace("learning_rate: 0.02", "learning_rate: 0.12"))
    with pytest.raises(ArtifactError, match=r"run-abc\.yaml is damaged: expected SHA-256"):
        plan_rerun(finished, "run-abc", None)

    recipe.write_text(text)
    path = finished.runs / "run-abc.json"
    path.write_text(path.read_text().replace('"failed"', '"done"'))
    assert list(finished.run_records()) == []
    (told,) = finished.damaged_runs()
    assert "its seal says" in told
    with pytest.raises(ArtifactError, match=r"run-abc\.json is damaged"):
        finished.read_run("run-abc")


@pytest.mark.parametrize(
    "error, passes",
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (DataError("row 3"), False),
        (StorageError("disk full"), False),
        (Stopped(15, "asked to"), False),
        (ValueError("a defect"), False),
        (OSError(28, "No space left on device"), False),
    ],
)
def test_only_faults_that_may_pass_are_tried_again(error, passes):
    from tasks.reuse import may_pass

    assert may_pass(error) is passes


def test_the_next_attempt_of_a_flow_run_takes_what_the_last_had_finished(finished):
    from tasks.reruns import stages_of_attempt

    stages = {
        "data": {"state": "reused", "digest": "d"},
        "sft": {"state": "done", "digest": "s"},
        "reward_model": {"state": "crashed"},
    }
    for flow_run, made in (("flow-1", stages), ("flow-2", {"data": {"state": "failed"}})):
        record = {"run_id": flow_run, "prefect_flow_run": flow_run, "stages": made}
        finished.write_run(flow_run, record)

    assert stages_of_attempt(finished, "flow-1") == {"data": "d", "sft": "s"}
    assert stages_of_attempt(finished, "flow-2") == {}
    assert stages_of_attempt(finished, "flow-3") == {}
