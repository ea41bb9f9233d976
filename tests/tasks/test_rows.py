"""Row by row, both ways: from a raw line to what was trained on it, and from a row to its line."""

import json

import pytest

from rlhf_core.errors import ArtifactError, UserError
from tasks.lineage import trace
from tasks.rows import Place, origin_of_row, use_of_line
from tasks.rows_text import origin_text, use_text
from tests.tasks.small_artifacts import demonstrations, make_chain


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    return make_chain(tmp_path_factory.mktemp("rows"))


def use(chain, file, line, stage="data"):
    return use_of_line(trace(chain.digest(stage), chain.store), chain.store, file=file, line=line)


def lines_of(chain, table):
    """Row number to line, as the table itself says."""
    import pyarrow.parquet as pq

    return pq.read_table(chain.made["data"].path / f"{table}.parquet")["line"].to_pylist()


def test_every_row_of_every_table_comes_from_its_line_and_the_line_knows_the_row(chain):
    lineage = trace(chain.digest("ppo"), chain.store)
    rows = demonstrations()
    for table in ("demonstrations-train", "demonstrations-validation", "prompts-evaluation"):
        for row, line in enumerate(lines_of(chain, table)):
            origin = origin_of_row(lineage, table, row)
            assert (origin.file, origin.line) == ("demos.jsonl", line)
            assert origin.row["prompt"] == rows[line - 1]["prompt"]
            assert Place(table, row) in use(chain, "demos.jsonl", line).places


def test_a_training_line_names_the_models_made_from_it_and_what_came_of_them(chain):
    line = lines_of(chain, "demonstrations-train")[0]
    found = use(chain, "demos.jsonl", line)

    read = {(reader.stage, reader.table) for reader in found.readers if reader.trained}
    assert ("sft", "demonstrations-train") in read
    assert ("reward_model", "demonstrations-train") in read
    assert ("ppo", chain.digest("ppo")) in found.descendants or ("ppo", "prompts-train") in read
    assert f"sft {chain.digest('sft')[:12]} was made from it (demonstrations-train)" in use_text(
        found
    )


def test_a_validation_line_was_measured_on_and_not_trained_on(chain):
    line = lines_of(chain, "demonstrations-validation")[0]
    found = use(chain, "demos.jsonl", line)

    reader = next(reader for reader in found.readers if reader.stage == "sft")
    assert not reader.trained
    assert "was measured on it" in use_text(found)


def test_a_line_that_was_set_aside_names_its_rule(chain):
    found = use(chain, "demos.jsonl", len(demonstrations()) + 1)

    assert found.places == ()
    assert [entry["rules"] for entry in found.set_aside if entry["table"] == "demonstrations"] == [
        ["TXT-001"]
    ]
    assert "was set aside from demonstrations: TXT-001" in use_text(found)


def test_a_line_that_is_not_used_says_why(chain):
    held_out = lines_of(chain, "prompts-evaluation")[0]  # so no demonstration either
    beyond = use(chain, "demos.jsonl", 5000)

    assert {place.table for place in use(chain, "demos.jsonl", held_out).places} == {
        "prompts-evaluation"
    }
    assert beyond.unused == f"the file has {len(demonstrations()) + 1} lines"


def test_asked_from_any_artifact_the_answer_is_the_same(chain):
    line = lines_of(chain, "demonstrations-train")[1]

    assert use(chain, "demos.jsonl", line, "ppo").places == use(chain, "demos.jsonl", line).places


def test_an_unknown_file_table_or_row_is_refused_with_those_that_there_are(chain):
    lineage = trace(chain.digest("data"), chain.store)

    with pytest.raises(UserError, match=r"they are demos\.jsonl, pairs\.jsonl"):
        use(chain, "other.jsonl", 1)
    with pytest.raises(UserError, match="no table 'rankings', but demonstrations-train"):
        origin_of_row(lineage, "rankings", 0)
    with pytest.raises(UserError, match="has rows 0 to"):
        origin_of_row(lineage, "prompts-train", 10_000)


def test_without_the_data_artifact_nothing_is_guessed(tmp_path):
    chain = make_chain(tmp_path, stages=("data", "sft"))
    chain.made["data"].path.rename(tmp_path / "hidden")

    with pytest.raises(ArtifactError, match="is not here"):
        origin_of_row(trace(chain.digest("sft"), chain.store), "demonstrations-train", 0)


def test_the_text_of_an_origin_shows_the_row(chain):
    origin = origin_of_row(trace(chain.digest("sft"), chain.store), "preferences-train", 0)

    text = origin_text(origin)
    assert f"came from pairs.jsonl:{origin.line} " in text
    assert json.dumps(["the good one", "the bad one"]) in text
