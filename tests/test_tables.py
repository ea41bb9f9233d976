import pytest

from rlhf_core.errors import ArtifactError
from rlhf_core.tables import read_demonstrations, read_preferences, read_prompts, write_table

PREFERENCE = {
    "prompt": "p",
    "responses": ["a", "b 🙂", ""],
    "ranks": [2, 1, 2],
    "source": "s",
    "group": "g",
    "margin": 0.5,
    "confidence": "sure",
    "file": "a.jsonl",
    "line": 3,
}


def test_what_is_written_is_read_back_with_plain_lists(tmp_path):
    write_table(tmp_path, "preferences", "train", [PREFERENCE, PREFERENCE | {"line": 4}])
    rows = read_preferences(tmp_path, "train").to_dict("records")
    assert rows == [PREFERENCE, PREFERENCE | {"line": 4}]
    assert type(rows[0]["responses"]) is list


def test_a_preference_without_margin_and_confidence_has_none(tmp_path):
    bare = {name: PREFERENCE[name] for name in PREFERENCE if name not in ("margin", "confidence")}
    write_table(tmp_path, "preferences", "train", [bare])
    (row,) = read_preferences(tmp_path, "train").to_dict("records")
    assert row == bare | {"margin": None, "confidence": None}


def test_a_prompt_without_a_reference_has_none(tmp_path):
    known = {"prompt": "p", "reference": "r", "file": "a.jsonl", "line": 1}
    unknown = {"prompt": "q", "reference": None, "file": "a.jsonl", "line": 2}
    write_table(tmp_path, "prompts", "evaluation", [known, unknown])
    assert read_prompts(tmp_path, "evaluation").to_dict("records") == [known, unknown]


def test_a_table_without_rows_keeps_its_columns(tmp_path):
    write_table(tmp_path, "demonstrations", "validation", [])
    table = read_demonstrations(tmp_path, "validation")
    assert list(table.columns) == ["prompt", "response", "file", "line"]
    assert table.empty


def test_equal_rows_give_equal_bytes(tmp_path):
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        write_table(tmp_path / folder, "preferences", "train", [PREFERENCE] * 100)
    first, second = (
        tmp_path / folder / "preferences-train.parquet" for folder in ("first", "second")
    )
    assert first.read_bytes() == second.read_bytes()


def test_a_missing_or_damaged_table_is_refused_by_name(tmp_path):
    with pytest.raises(ArtifactError, match=r"holds no prompts-train\.parquet"):
        read_prompts(tmp_path, "train")
    (tmp_path / "prompts-train.parquet").write_bytes(b"PAR1 damaged")
    with pytest.raises(ArtifactError, match=r"prompts-train\.parquet cannot be read as Parquet"):
        read_prompts(tmp_path, "train")
