"""A lineage hashed again: whatever byte was changed, moved or lost is named."""

import shutil

import pytest

from rlhf_core.artifacts import sha256_of
from rlhf_core.errors import ArtifactError, StorageError
from rlhf_core.records import read_record, sealed_json
from tasks.lineage import trace
from tasks.verify import verification_text, verify_lineage
from tests.tasks.small_artifacts import flip_bit, make_chain, overwrite


@pytest.fixture
def chain(tmp_path):
    return make_chain(tmp_path)


def verify(chain, stage="ppo"):
    return verify_lineage(trace(chain.digest(stage), chain.store))


def states(verification):
    return {made.stage: made.state for made in verification.artifacts}


def test_a_whole_chain_is_sound_from_the_policy_to_the_raw_files(chain):
    found = verify(chain)

    assert found.fault is None
    assert list(states(found).items()) == [
        (stage, "sound") for stage in ("data", "sft", "reward_model", "ppo")
    ]
    assert [(raw.name, raw.state) for raw in found.raw_files] == [
        ("demos.jsonl", "sound"),
        ("pairs.jsonl", "sound"),
    ]


def test_a_flipped_bit_in_a_parent_names_the_file_and_both_hashes(chain):
    weights = chain.made["sft"].path / "model.safetensors"
    expected = sha256_of(weights)
    flip_bit(weights)

    fault = verify(chain).fault

    assert states(verify(chain)) == {
        "data": "sound", "sft": "damaged", "reward_model": "sound", "ppo": "sound"
    }  # fmt: skip
    assert isinstance(fault, StorageError)
    for part in (str(weights), expected, sha256_of(weights)):
        assert part in str(fault)


@pytest.mark.parametrize(
    "name, damage",
    [
        ("manifest.json", lambda path: flip_bit(path, at=30)),
        ("provenance.json", flip_bit),
        ("model.safetensors", lambda path: overwrite(path, path.read_bytes()[:-1])),
        ("model.safetensors", lambda path: path.unlink()),
        ("extra.bin", lambda path: path.write_text("not listed")),
    ],
    ids=["manifest", "provenance", "truncated", "removed", "extra"],
)
def test_other_damage_is_seen_too(chain, name, damage):
    damage(chain.made["reward_model"].path / name)

    found = verify(chain)

    assert states(found)["reward_model"] == "damaged"
    assert found.fault is not None
    assert found.fault.exit_code == 4
    assert name in str(found.fault)


def test_a_setting_changed_in_the_record_does_not_fit_its_fingerprint(chain):
    path = chain.made["ppo"].path / "provenance.json"
    record = read_record(path)
    assert record["fingerprint"]["settings"]["ppo"]["kl_coef"] == 0.05
    record["fingerprint"]["settings"]["ppo"]["kl_coef"] = 0.5
    overwrite(path, sealed_json(record))  # changed by somebody who knows of the seal

    assert "fingerprint" in str(verify(chain).fault)


def test_a_raw_file_that_was_changed_since_is_named_and_one_that_is_gone_is_not_a_fault(chain):
    raw = chain.raw / "demos.jsonl"
    flip_bit(raw, at=12)
    changed = verify(chain)

    assert isinstance(changed.fault, ArtifactError)
    assert changed.fault.exit_code == 2
    assert str(raw) in str(changed.fault)
    assert sha256_of(raw) in str(changed.fault)

    raw.unlink()
    gone = verify(chain)
    assert gone.fault is None
    assert "missing  raw demos.jsonl" in verification_text(gone)


def test_a_parent_that_is_not_here_leaves_the_chain_unproved(chain, tmp_path):
    shutil.rmtree(chain.made["data"].path)

    found = verify(chain)

    assert states(found)["data"] == "missing"
    assert isinstance(found.fault, ArtifactError)
    assert chain.digest("data") in str(found.fault)


def test_the_report_for_machines_says_the_same(chain):
    flip_bit(chain.made["ppo"].path / "model.safetensors")

    document = verify(chain).to_json()

    assert document["sound"] is False
    assert document["artifacts"][-1]["state"] == "damaged"
    assert document["artifacts"][-1]["faults"][0]["expected"].startswith("SHA-256 ")
