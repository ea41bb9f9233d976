"""From an artifact back to the raw files, with every server gone."""

import shutil
from pathlib import Path

import pytest

from rlhf_core.artifacts import Artifact, publish_artifact
from rlhf_core.errors import ArtifactError
from tasks.lineage import lineage_text, trace
from tasks.store import Store

SOURCES = '[{"name": "rows.jsonl", "sha256": "ababababababab", "rows": 2}]'


def publish(store: Store, stage: str, **inputs: Artifact) -> Artifact:
    payload = store.stage_payload(stage)
    (payload / ("sources.json" if stage == "data" else "weights")).write_text(
        SOURCES if stage == "data" else stage
    )
    provenance = {
        "stage": stage,
        "inputs": {
            role: {"stage": role, "digest": artifact.digest, "run_id": f"run-of-{role}"}
            for role, artifact in inputs.items()
        },
        "code": {"package": "1", "git_commit": "c0ffee" * 6, "git_dirty": True},
        "fingerprint": {"seed": 3},
        "runs": {"mlflow_run": f"run-of-{stage}"},
        "ended_at": "2026-01-01T00:00:00+00:00",
    }
    return store.publish(stage, stage, provenance)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def chain(store: Store) -> dict[str, Artifact]:
    data = publish(store, "data")
    sft = publish(store, "sft", data=data)
    return {
        "data": data,
        "sft": sft,
        "reward_model": publish(store, "reward_model", data=data, sft=sft),
    }


def test_the_tree_reaches_the_raw_file_and_shows_each_artifact_once(store, chain):
    lines = lineage_text(trace(chain["reward_model"].digest[:8], store)).splitlines()

    facts = "seed 3, commit c0ffeec0ffee with changes, 2026-01-01T00:00:00+00:00"
    short = {stage: artifact.digest[:12] for stage, artifact in chain.items()}
    assert lines == [
        f"reward_model {short['reward_model']}, run run-of-rewar, {facts}",
        f"   data {short['data']}, run run-of-data, {facts}",
        "      file rows.jsonl, sha256 abababababab, 2 rows",
        f"   sft {short['sft']}, run run-of-sft, {facts}",
        f"      data {short['data']} (above)",
    ]


def test_folder_digest_and_run_id_name_the_same_artifact(store, chain):
    sft = chain["sft"]
    by_digest = trace(sft.digest, store)

    assert trace(str(sft.path), store) == by_digest
    assert trace("run-of-sft", store) == by_digest


def test_a_folder_copied_away_still_tells_its_own_past(store, chain, tmp_path):
    copied = tmp_path / "elsewhere"
    shutil.copytree(chain["sft"].path, copied)
    shutil.rmtree(store.folder)

    found = trace(str(copied), store)

    assert found.target == chain["sft"].digest
    assert found.nodes[chain["data"].digest].path is None
    assert "(not in this store)" in lineage_text(found)


def test_inputs_are_found_beside_a_copied_set_of_artifacts(store, chain, tmp_path):
    shutil.copytree(store.objects, tmp_path / "backup")
    shutil.rmtree(store.folder)

    found = trace(str(tmp_path / "backup" / chain["sft"].digest), store)

    assert found.nodes[chain["data"].digest].sources[0]["name"] == "rows.jsonl"


def test_json_names_every_artifact_with_its_provenance(store, chain):
    document = trace(chain["sft"].digest, store).to_json()

    assert document["target"] == chain["sft"].digest
    node = document["artifacts"][chain["sft"].digest]
    assert node["inputs"] == {"data": chain["data"].digest}
    assert node["provenance"]["runs"]["mlflow_run"] == "run-of-sft"


def test_an_unknown_or_ambiguous_name_is_refused(store, chain):
    with pytest.raises(ArtifactError, match="holds no artifact whose digest begins with 'abcd'"):
        trace("abcd", store)


def test_publishing_the_same_bytes_twice_keeps_one_object(store, chain):
    again = publish(store, "data")
    assert again.digest == chain["data"].digest
    assert len(list(store.objects.iterdir())) == len(chain)


def test_a_payload_cut_short_is_gone_when_its_stage_starts_again(store):
    (store.stage_payload("ppo-1") / "half").write_text("x")
    assert list(store.stage_payload("ppo-1").iterdir()) == []


def test_a_link_in_a_payload_is_not_published(store):
    payload = store.stage_payload("sft-1")
    (payload / "weights").symlink_to("/etc/hostname")
    with pytest.raises(ArtifactError, match="is a link"):
        publish_artifact(payload, store.objects, stage="sft", provenance={})
