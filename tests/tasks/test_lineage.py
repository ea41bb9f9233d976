"""From an artifact back to the raw files, with every server gone."""

import shutil
import subprocess
import sys
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
    assert "(not here: neither in the store nor beside" in lineage_text(found)


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


def test_a_pipeline_run_stands_for_its_last_artifact(store, chain):
    stages = {stage: {"state": "done", "digest": made.digest} for stage, made in chain.items()}
    store.write_run("feedc0de" * 4, {"stages": {**stages, "ppo": {"state": "failed"}}})

    assert trace("feedc0de", store).target == chain["reward_model"].digest


def test_a_damaged_parent_is_a_line_that_says_so(store, chain):
    weights = chain["sft"].path / "weights"
    weights.chmod(0o644)
    weights.write_text("cut short")

    text = lineage_text(trace(chain["reward_model"].digest, store))

    assert f"DAMAGED: {weights} " in text


@pytest.mark.parametrize("damage", [b"{", b"[]", b'{"inputs": {"data": 3}}', b"\xff\xfe"])
def test_a_damaged_record_ends_the_walk_there_and_says_so(store, chain, damage):
    record = chain["sft"].path / "provenance.json"
    record.chmod(0o644)
    record.write_bytes(damage)

    found = trace(chain["sft"].digest, store)

    assert found.nodes[chain["sft"].digest].fault is not None
    assert "DAMAGED" in lineage_text(found)


def test_inputs_are_found_beside_an_artifact_under_any_folder_name(store, chain, tmp_path):
    for stage, artifact in chain.items():
        shutil.copytree(artifact.path, tmp_path / "copies é" / f"my {stage}")
    shutil.rmtree(store.folder)

    found = trace(str(tmp_path / "copies é" / "my reward_model"), store)

    assert [node.stage for node in found.in_order] == ["data", "sft", "reward_model"]
    assert all(node.path is not None for node in found.in_order)


def test_an_artifact_of_another_store_finds_its_inputs_there(store, chain, tmp_path):
    found = trace(str(chain["reward_model"].path), Store(tmp_path / "other"))

    assert all(node.path is not None for node in found.nodes.values())


def test_long_names_spaces_and_other_alphabets_are_no_obstacle(tmp_path):
    deep = tmp_path.joinpath("Größe 尺寸 " + "x" * 60, "y" * 200, "z" * 230)
    store = Store(deep)
    payload = store.stage_payload("sft")
    long = payload / ("層" * 80 + ".bin")  # 240 bytes
    long.write_text("weights")
    data = publish(store, "data")
    sft = publish_artifact(
        payload,
        store.objects,
        stage="sft",
        provenance=data.provenance()
        | {"inputs": {"data": {"stage": "data", "digest": data.digest, "run_id": "r"}}},
    )

    found = trace(str(sft.path), store)

    assert [node.fault for node in found.in_order] == [None, None]
    assert trace(sft.digest[:10], store) == found


def test_a_name_longer_than_any_file_has_is_refused_as_unknown(store, chain):
    with pytest.raises(ArtifactError, match="holds no artifact"):
        trace("a" * 5000, store)


def test_neither_torch_nor_mlflow_is_loaded_for_a_folder(chain):
    code = (
        "import sys; from pathlib import Path; from tasks.lineage import trace, lineage_text;"
        "from tasks.lineage_page import lineage_page; from tasks.store import Store;"
        "from tasks.verify import verify_lineage;"
        f"found = trace({str(chain['reward_model'].path)!r}, Store(Path('nowhere')));"
        "lineage_text(found), lineage_page(found), verify_lineage(found);"
        "print([m for m in ('torch', 'mlflow', 'prefect', 'transformers', 'pandas', 'pyarrow')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
