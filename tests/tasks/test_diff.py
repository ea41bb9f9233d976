"""Why two artifacts differ is said by its first cause, however far back that lies."""

import json

import pytest

from rlhf_core.errors import UserError
from rlhf_core.records import read_record, sealed_json
from tasks.diff import diff_lineages
from tasks.diff_text import diff_text
from tasks.lineage import trace
from tests.tasks.small_artifacts import demonstrations, make_chain, overwrite


def diff(a, b, stage="ppo"):
    return diff_lineages(trace(a.digest(stage), a.store), trace(b.digest(stage), b.store))


def test_equal_artifacts_are_said_to_be_equal(tmp_path):
    chain = make_chain(tmp_path)
    found = diff(chain, chain)

    assert found.causes() == []
    assert diff_text(found) == f"equal: both are ppo {chain.digest('ppo')}"


def test_a_changed_setting_of_an_earlier_stage_is_the_cause(tmp_path):
    a = make_chain(tmp_path)
    b = make_chain(tmp_path, "sft.learning_rate=0.125", store=a.store)

    found = diff(a, b)

    assert len(found.causes()) == 1
    assert found.causes()[0].startswith("sft: sft.learning_rate ")
    assert found.causes()[0].endswith(" -> 0.125")
    assert set(found.inputs) == {"sft", "reward_model"}
    assert [change.name for change in found.metrics] == ["loss"]
    assert "data" not in found.inputs


def test_the_seed_is_named_once_with_the_stages_it_acts_in(tmp_path):
    a = make_chain(tmp_path)
    b = make_chain(tmp_path, "seed=2", store=a.store)

    causes = diff(a, b).causes()

    assert [cause for cause in causes if "seed 1 -> 2" in cause] == [
        "sft, reward_model, ppo: seed 1 -> 2"
    ]


def test_changed_data_is_followed_to_the_rows_of_the_raw_file(tmp_path):
    rows = demonstrations()
    a = make_chain(tmp_path, rows=rows)
    rows[7] = rows[7] | {"response": "another answer ."}
    b = make_chain(tmp_path, rows=rows, store=a.store)

    found = diff(a, b)

    content = [cause for cause in found.causes() if "demos.jsonl" in cause]
    assert len(content) == 1
    assert "holds other bytes" in content[0]
    data = found.inputs["sft"].inputs["data"]
    table = next(table for table in data.tables if table.table.startswith("demonstrations"))
    assert (table.only_a, table.only_b) == (1, 1)
    assert table.examples_a == table.examples_b == ("demos.jsonl:8",)
    assert "1 only in A (demos.jsonl:8), 1 only in B (demos.jsonl:8)" in diff_text(found)


def change_record(chain, stage, change):
    path = chain.made[stage].path / "provenance.json"
    record = read_record(path)
    change(record)
    overwrite(path, sealed_json(record))


def test_changed_code_and_libraries_are_causes(tmp_path):
    a, b = make_chain(tmp_path / "x"), make_chain(tmp_path / "x", "seed=2")

    def change(record):
        record["fingerprint"]["seed"] = 1
        record["fingerprint"]["code"]["rlhf_core.maths.losses"] = "0" * 64
        record["fingerprint"]["libraries"]["torch"] = "1.0"

    change_record(b, "ppo", change)
    causes = diff(a, b).causes()

    assert "ppo: the code of rlhf_core.maths.losses was changed" in causes
    assert any(cause.startswith("ppo: torch ") and cause.endswith("-> 1.0") for cause in causes)


def test_other_bytes_without_a_cause_point_at_the_machine(tmp_path):
    a = make_chain(tmp_path / "x", stages=("data", "sft"))
    b = make_chain(tmp_path / "y", "sft.learning_rate=0.125", stages=("data", "sft"))

    def change(record):
        original = json.loads((a.made["sft"].path / "provenance.json").read_text())
        record["fingerprint"] = original["fingerprint"]
        record["inputs"] = original["inputs"]
        record["machine"]["threads"] = 64

    change_record(b, "sft", change)
    found = diff(a, b, "sft")

    assert "nothing that decides the result differs, but the bytes do" in found.causes()[0]
    assert "machine.threads" in found.causes()[0]


def test_an_input_that_is_not_here_is_said_and_not_guessed(tmp_path):
    a, b = make_chain(tmp_path / "a"), make_chain(tmp_path / "b", "data.validation_share=0.2")
    b.made["data"].path.rename(tmp_path / "hidden")

    found = diff(a, b, "sft")

    assert any("not here, so it cannot be compared" in cause for cause in found.causes())


def test_two_stages_are_not_compared(tmp_path):
    chain = make_chain(tmp_path)
    a, b = (trace(chain.digest(stage), chain.store) for stage in ("sft", "ppo"))

    with pytest.raises(UserError, match="of different stages"):
        diff_lineages(a, b)


def test_the_document_for_machines_nests_the_inputs(tmp_path):
    a = make_chain(tmp_path)
    b = make_chain(tmp_path, "sft.learning_rate=0.125", store=a.store)

    document = json.loads(json.dumps(diff(a, b).to_json()))

    assert document["equal"] is False
    assert document["inputs"]["sft"]["settings"][0]["name"] == "sft.learning_rate"
