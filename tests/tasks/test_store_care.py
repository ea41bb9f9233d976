"""What a store holds, what refers to it, and what garbage collection takes and leaves."""

import os
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from rlhf_core.errors import StorageError
from rlhf_core.recipes import load_recipe
from rlhf_core.records import write_record
from rlhf_core.settings.base import STAGES
from tasks.locks import hold
from tasks.run_journal import open_journal
from tasks.shipper import Shipped, server_name, shipped_path
from tasks.store import Store
from tasks.store_care import collect_garbage, disk_usage, find_garbage, list_artifacts
from tests.tasks.committed import commit_recipe

DAY = 86_400


@pytest.fixture
def store(tmp_path: Path, tiny_recipe: Path) -> Store:
    """A store in which every stage of the tiny recipe is finished."""
    store = Store(tmp_path / "store")
    made = commit_recipe(load_recipe(tiny_recipe), store)
    stages = {"ppo": {"state": "done", "digest": made["ppo"].digest}}
    store.write_run("run-1", {"run_id": "run-1", "state": "done", "stages": stages})
    return store


def make_old(path: Path, days: float) -> None:
    for found in [*path.rglob("*"), path]:
        os.utime(found, (time.time() - days * DAY,) * 2)


def names(garbage) -> set[str]:
    return {item.path.name for item in garbage}


def test_artifacts_are_listed_with_what_refers_to_them(store):
    artifacts = {artifact.stage: artifact for artifact in list_artifacts(store)}

    assert set(artifacts) == set(STAGES)
    assert artifacts["ppo"].runs == ("run-1",)
    assert [key.partition("-")[0] for key in artifacts["ppo"].commits] == ["ppo"]
    assert [key.partition("-")[0] for key in artifacts["ppo"].used_by] == ["evaluation"]
    assert len(artifacts["data"].used_by) == 4
    folder = store.object_folder(artifacts["sft"].digest)
    assert artifacts["sft"].bytes == sum(path.stat().st_size for path in folder.iterdir())


def test_the_parts_of_a_store_add_up_to_all_of_it(store):
    everything = sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file())
    assert sum(disk_usage(store).values()) == everything


def test_what_a_commit_made_or_was_made_from_stays(store):
    next(store.commits.glob("data-*.json")).unlink()  # others were made from its artifact
    assert find_garbage(store, stale_days=0) == []


def test_an_artifact_without_a_commit_goes(store):
    evaluation = next(store.commits.glob("evaluation-*.json"))
    digest = store.read_commit(evaluation.stem)["digest"]
    evaluation.unlink()

    assert names(find_garbage(store, stale_days=7)) == {digest}
    assert store.object_folder(digest).exists()
    (removed,) = collect_garbage(store, stale_days=7)

    assert removed.bytes > 0
    assert not store.object_folder(digest).exists()
    assert len(list(store.objects.iterdir())) == len(STAGES) - 1


def test_only_stale_work_that_nobody_holds_goes(store):
    for key in ("sft-new", "sft-old", "sft-held", "sft-owed"):
        (store.work(key) / "checkpoints").mkdir(parents=True)
    for key in ("sft-owed", "sft-shipped"):
        journal = open_journal(store.work(key) / "journal")
        journal.report(1, {"loss": 0.5})
        end = journal.end if key == "sft-shipped" else journal.end - 1
        shipped = Shipped(server_name(os.environ["MLFLOW_TRACKING_URI"]), end)
        write_record(shipped_path(journal.path), asdict(shipped))
        journal.close()
    for key in ("sft-old", "sft-held", "sft-owed", "sft-shipped"):
        make_old(store.work(key), days=8)

    with hold(store.lock("sft-held")):
        removed = collect_garbage(store, stale_days=7)

    assert names(removed) == {"sft-old", "sft-shipped"}
    left = {path.name for path in (store.folder / "work").iterdir()}
    assert left == {"sft-new", "sft-held", "sft-owed"}


def test_leftovers_of_killed_processes_go(store):
    half = store.commits / ".sft-1.json.123"
    half.write_text("{")
    fresh = store.commits / ".sft-2.json.124"
    fresh.write_text("{")
    make_old(half, days=1)
    store.stages.mkdir()
    (store.stages / "0123abcd").write_text("a failed state")
    (store.locks / "sft-1.lock").write_text("{}")
    owner = store.folder / "running" / "torn.json"
    owner.parent.mkdir()
    owner.write_text("{")
    make_old(owner, days=1)

    removed = names(collect_garbage(store, stale_days=7))
    assert removed == {half.name, "0123abcd", "sft-1.lock", owner.name}
    assert fresh.exists()


def test_nothing_is_removed_while_a_commit_cannot_be_read(store):
    path = next(store.commits.glob("ppo-*.json"))
    path.write_text("{")
    with pytest.raises(StorageError, match="nothing is removed"):
        collect_garbage(store, stale_days=7)
    assert len(list(store.objects.iterdir())) == len(STAGES)


def test_garbage_waits_for_an_artifact_that_is_being_published(store):
    with (
        hold(store.lock("publishing")),
        pytest.raises(StorageError, match="being made by process"),
    ):
        collect_garbage(store, stale_days=7)
