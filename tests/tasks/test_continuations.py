"""Other settings do not go on from a checkpoint unasked, and asked they leave a trace for ever."""

from dataclasses import replace
from pathlib import Path

import pytest

from rlhf_core.checkpoints import Checkpoints
from rlhf_core.errors import ArtifactError, StorageError, UserError
from rlhf_core.recipes import dump_recipe, load_recipe
from rlhf_core.settings.base import Stage
from tasks.continuations import (
    checkpoint_identity,
    inherited,
    note_job,
    past_lines,
    unfinished_others,
)
from tasks.diff import diff_lineages
from tasks.fingerprints import with_past
from tasks.handles import StageJob, stage_job
from tasks.lineage import lineage_text, trace
from tasks.locks import hold
from tasks.plan import plan_recipe
from tasks.reruns import Rerun, plan_rerun
from tasks.store import CHECKPOINTS, Store
from tasks.verify import verify_lineage
from tests.tasks.committed import commit_job, commit_recipe

RATE = "sft.learning_rate=0.5"
ALLOWED = ("sft.learning_rate",)


@pytest.fixture
def store(tmp_path: Path, tiny_recipe: Path) -> Store:
    """A store with a run whose SFT was killed after step 7, its checkpoint and its record."""
    store = Store(tmp_path / "store")
    recipe = load_recipe(tiny_recipe)
    data = commit_recipe(recipe, store, stages=("data",))["data"]
    job = stage_job(recipe, "sft", data=data)
    save(store, job, step=7)
    write_run(store, recipe, data=data.digest)
    return store


def save(store: Store, job: StageJob, step: int) -> None:
    note_job(store, job, "run-abc")
    identity = checkpoint_identity(job.stage, job.fingerprint.digest)
    checkpoints = Checkpoints(store.work(job.key) / CHECKPOINTS, identity)
    checkpoints.prepare(1)
    checkpoints.save(step, lambda folder: (folder / "weights").write_text("w") and None, {})


def write_run(store: Store, recipe, data: str, run: str = "run-abc", **facts) -> None:
    stages = {"data": {"state": "done", "digest": data}, "sft": {"state": "crashed"}}
    store.write_recipe(run, dump_recipe(recipe))
    store.write_run(run, {"run_id": run, "folder": ".", "stages": stages} | facts)


def job_of(again: Rerun, store: Store, stage: Stage = "sft") -> StageJob:
    data = commit_recipe(again.recipe, store, stages=("data",))["data"]
    job = stage_job(again.recipe, stage, data=data)
    return replace(job, fingerprint=with_past(job.fingerprint, stage, again.continued[stage]))


@pytest.mark.parametrize(
    "overrides, named",
    [
        ([RATE], "sft.learning_rate: 0.02 -> 0.5"),
        (["sft.batch_size=8"], "sft.batch_size: 16 -> 8"),
        (["seed=2"], "seed: 1 -> 2"),
        ([RATE, "sft.batch_size=8"], "sft.batch_size: 16 -> 8"),
    ],
)
def test_a_checkpoint_is_not_continued_with_other_settings_unasked(store, overrides, named):
    with pytest.raises(UserError, match=named) as refused:
        plan_rerun(store, "run-abc", None, overrides, ALLOWED if len(overrides) > 1 else ())
    assert f"--allow-change {named.partition(':')[0]}" in str(refused.value)
    assert list((store.folder / "work").glob("*/inherited")) == []


def test_an_allowed_change_goes_on_from_the_checkpoint_under_a_name_of_its_own(store, tiny_recipe):
    again = plan_rerun(store, "run-abc", None, [RATE], ALLOWED)
    job = job_of(again, store)

    plain = stage_job(again.recipe, "sft", data=job.inputs["data"])
    old = stage_job(load_recipe(tiny_recipe), "sft", data=job.inputs["data"])
    assert len({job.key, plain.key, old.key}) == 3
    assert again.force == ()
    assert again.recipe.sft.learning_rate == 0.5
    checkpoints = Checkpoints(
        store.work(job.key) / CHECKPOINTS,
        checkpoint_identity("sft", job.fingerprint.digest),
        inherited=inherited(store, job),
    )
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 7
    (line,) = past_lines(job.fingerprint.continued)
    assert line == (
        f"went on after step 7 of {old.fingerprint.digest[:12]} with sft.learning_rate 0.02 -> 0.5"
    )
    save(store, job, step=9)
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 9  # its own, once there is one


def test_the_checkpoint_stays_whatever_becomes_of_the_job_that_made_it(store):
    again = plan_rerun(store, "run-abc", None, [RATE], ALLOWED)
    job = job_of(again, store)
    old = again.continued["sft"]["fingerprint"]
    store.remove_work(f"sft-{old}")
    assert not store.work(f"sft-{old}").exists()

    def newest():
        given = inherited(store, job)
        return Checkpoints(store.work(job.key) / CHECKPOINTS, {}, inherited=given).newest()

    assert newest().step == 7
    weights = next(store.work(job.key).glob("inherited/step-*/weights"))
    weights.chmod(0o644)
    weights.write_text("v")
    with pytest.raises(ArtifactError, match="from which the stage was to go on, cannot be used"):
        newest()


def test_a_result_with_a_past_tells_it_and_is_reused_for_nothing_else(store, tiny_recipe):
    again = plan_rerun(store, "run-abc", None, [RATE], ALLOWED)
    made = commit_job(job_of(again, store), store, {})

    data, sft, *_ = plan_recipe(again.recipe, store)
    assert (data.action, sft.action) == ("reuse", "run")
    assert sft.reasons == ("that one went on from a checkpoint of other settings",)
    lineage = trace(made.digest, store)
    assert "went on after step 7" in lineage_text(lineage)
    assert verify_lineage(lineage).fault is None


def test_a_rerun_of_a_rerun_keeps_the_past_and_adds_to_it(store):
    again = plan_rerun(store, "run-abc", None, [RATE], ALLOWED)
    job = job_of(again, store)
    digest = job.inputs["data"].digest
    write_run(store, again.recipe, data=digest, run="run-two", continued=dict(again.continued))

    assert plan_rerun(store, "run-two", None).continued == again.continued
    save(store, job, step=9)
    allowed = ("sft.batch_size",)
    third = plan_rerun(store, "run-two", None, ["sft.batch_size=8"], allowed)
    first, second = past_lines(third.continued["sft"])
    assert "after step 7" in first
    assert "after step 9" in second
    assert second.endswith("sft.batch_size 16 -> 8")


def test_what_cannot_go_on_says_why(store):
    for overrides, allowed, words in (
        ([], ALLOWED, "does not have it otherwise than before"),
        ([RATE], ("sft.epochs", *ALLOWED), "--allow-change sft.epochs"),
        (["model.max_prompt_tokens=100"], (), "decides of stages before sft"),
        (["data.evaluation_share=0.2"], (), "decides of stages before sft"),
    ):
        with pytest.raises(UserError, match=words):
            plan_rerun(store, "run-abc", None, overrides, allowed)
    job = next(path.parent.name for path in (store.folder / "work").glob("sft-*/checkpoints"))
    with hold(store.lock(job)), pytest.raises(StorageError, match="is being made by process"):
        plan_rerun(store, "run-abc", None, [RATE], ALLOWED)
    store.remove_work(job)
    with pytest.raises(UserError, match="no checkpoint of this sft to go on from"):
        plan_rerun(store, "run-abc", None, [RATE], ALLOWED)


def test_settings_of_later_stages_change_freely_in_a_rerun(store):
    again = plan_rerun(store, "run-abc", None, ["ppo.kl_coef=0.25"])
    assert again.recipe.ppo.kl_coef == 0.25
    assert again.continued == {}


def test_an_unfinished_job_that_is_not_continued_is_named_with_what_differs(store, tiny_recipe):
    data = commit_recipe(load_recipe(tiny_recipe), store, stages=("data",))["data"]

    def told(*overrides: str) -> list[str]:
        job = stage_job(load_recipe(tiny_recipe, overrides), "sft", data=data)
        return list(unfinished_others(store, job))

    assert told() == []  # it is the unfinished one
    (line,) = told(RATE, "seed=2")
    assert "differs in sft.learning_rate: 0.02 -> 0.5; seed: 1 -> 2" in line
    assert "rlhf rerun run-abc --set sft.learning_rate=… --allow-change sft.learning_rate" in line
    (line,) = told("model.max_prompt_tokens=100")
    assert line.endswith("model.max_prompt_tokens: 192 -> 100: it starts over")


def test_a_difference_in_the_past_is_a_cause(store, tiny_recipe, tmp_path):
    again = plan_rerun(store, "run-abc", None, [RATE], ALLOWED)
    made = commit_job(job_of(again, store), store, {})
    other = Store(tmp_path / "other")
    plain = commit_recipe(load_recipe(tiny_recipe, ["seed=2"]), other, stages=("data", "sft"))
    difference = diff_lineages(trace(made.digest, store), trace(plain["sft"].digest, other))
    (change,) = difference.continued
    assert "went on after step 7" in str(change.a)
    assert change.b is None
    assert any("past: A went on after step 7" in cause for cause in difference.causes())
