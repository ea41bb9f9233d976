"""What a plan says of each stage, from commits alone."""

from pathlib import Path

import pytest

from rlhf_core.recipes import load_recipe
from rlhf_core.records import write_record
from rlhf_core.settings.base import STAGES
from tasks.commits import thread_note
from tasks.fingerprints import code_digests
from tasks.plan import plan_recipe
from tasks.store import Store
from tests.tasks.committed import commit_recipe


@pytest.fixture
def store(tmp_path: Path, tiny_recipe: Path) -> Store:
    """A store in which every stage of the tiny recipe is finished."""
    store = Store(tmp_path / "store")
    commit_recipe(load_recipe(tiny_recipe), store)
    return store


def planned(recipe: Path, store: Store, *overrides: str, force: tuple = ()) -> dict[str, list[str]]:
    plan = plan_recipe(load_recipe(recipe, overrides), store, force)
    return {stage.stage: [stage.action, *stage.reasons] for stage in plan}


def test_a_finished_recipe_is_reused_whole(tiny_recipe, store):
    assert planned(tiny_recipe, store) == {stage: ["reuse"] for stage in STAGES}


def test_a_new_store_has_nothing_to_reuse(tiny_recipe, tmp_path):
    plan = planned(tiny_recipe, Store(tmp_path / "new"))
    assert plan["data"] == ["run", "never run in this store"]
    assert plan["sft"] == ["run", "never run in this store"]


def test_a_changed_setting_is_named_with_both_values(tiny_recipe, store):
    plan = planned(tiny_recipe, store, "ppo.kl_coef=0.07", "ppo.lora={rank: 4}")
    assert {stage for stage, what in plan.items() if what[0] == "run"} == {"ppo", "evaluation"}
    assert "ppo.kl_coef: 0.05 -> 0.07" in plan["ppo"]
    assert "ppo.lora.rank: none -> 4" in plan["ppo"]
    assert plan["evaluation"] == [
        "run",
        "depends on ppo, which runs; reused where that makes the same artifact again",
    ]


def test_the_seed_decides_every_stage(tiny_recipe, store):
    plan = planned(tiny_recipe, store, "seed=9")
    assert plan["data"] == ["run", "seed: 1 -> 9"]
    assert plan["reward_model"][1:] == ["depends on data and sft, which run", "seed: 1 -> 9"]


def test_a_forced_stage_runs_and_what_follows_depends_on_it(tiny_recipe, store):
    plan = planned(tiny_recipe, store, force=("reward_model",))
    assert plan["sft"] == ["reuse"]
    assert plan["reward_model"] == ["run", "forced"]
    assert plan["ppo"][1].startswith("depends on reward_model, which runs")


def test_a_damaged_artifact_is_made_again(tiny_recipe, store):
    commit = next(c for c in store.commit_records() if c["stage"] == "sft")
    weights = store.object_folder(commit["digest"]) / "payload"
    weights.chmod(0o644)
    weights.write_bytes(b"SFT 1")

    plan = planned(tiny_recipe, store)

    assert plan["data"] == ["reuse"]
    assert plan["sft"][0] == "run"
    assert "payload is damaged" in plan["sft"][1]


@pytest.mark.parametrize("content", [b"", b'{"digest": "ab"', b"[]", b"\xff"])
def test_a_damaged_commit_is_no_commit(content, tiny_recipe, store):
    path = next(store.commits.glob("ppo-*.json"))
    path.write_bytes(content)
    assert planned(tiny_recipe, store)["ppo"][0] == "run"


def test_a_changed_module_is_named(tiny_recipe, store, monkeypatch):
    real = code_digests.__wrapped__
    module = "rlhf_core.maths.advantages"

    def edited(homes, roots):
        return {name: "new" if name == module else x for name, x in real(homes, roots).items()}

    monkeypatch.setattr("tasks.fingerprints.code_digests", edited)
    plan = planned(tiny_recipe, store)
    assert plan["sft"] == ["reuse"]
    assert plan["ppo"] == ["run", f"code: {module} changed"]


def test_a_table_that_a_stage_does_not_read_may_change_under_it(tiny_recipe, store):
    recipe = load_recipe(tiny_recipe)
    commit_recipe(recipe, store, stages=("data",), tables={"prompts-evaluation": b"new"})

    plan = planned(tiny_recipe, store)

    assert {stage for stage, what in plan.items() if what[0] == "run"} == {"evaluation"}
    assert plan["evaluation"][1].startswith("input data/prompts-evaluation: ")


def test_another_number_of_threads_is_said_once_and_runs_nothing(tiny_recipe, store, monkeypatch):
    key = next(store.commits.glob("sft-*.json")).stem
    write_record(
        store.commits / f"{key}.json", store.read_commit(key) | {"machine": {"threads": 8}}
    )
    plans = plan_recipe(load_recipe(tiny_recipe), store)
    assert {plan.action for plan in plans} == {"reuse"}
    commits = [plan.commit for plan in plans]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert "than this run's 2: sft with 8." in str(thread_note(commits))
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert thread_note(commits) is None
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert thread_note(commits) is None  # torch alone would know


def test_work_in_progress_is_continued(tiny_recipe, store):
    recipe = load_recipe(tiny_recipe, ["ppo.updates=9"])
    (ppo,) = (stage for stage in plan_recipe(recipe, store) if stage.stage == "ppo")
    (store.work(ppo.key) / "checkpoints" / "step-1").mkdir(parents=True)
    (ppo,) = (stage for stage in plan_recipe(recipe, store) if stage.stage == "ppo")
    assert ppo.reasons == ("ppo.updates: 2 -> 9", "continues from its last checkpoint")
