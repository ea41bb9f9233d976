"""What labelling tools are given, and what their exports are read as; checked with the tools' own
packages where they are installed."""

import json

import pytest

from rlhf_core.collection import Group
from rlhf_core.errors import DataError
from rlhf_core.labeling import (
    LABEL_STUDIO_CONFIG,
    exported,
    policies_in,
    read_labeled,
    write_documents,
)

GROUPS = [
    Group("Say hi", ("hi", "hello", "go away"), (0.2, 0.9, -1.0)),
    Group("Say bye", ("bye", "farewell")),
]
ORIGIN = {"policy": "4c6f", "labeler": "some.module:label"}


def write(path, documents):
    write_documents(path, documents)
    return path


def test_argilla_shows_the_responses_and_suggests_their_order():
    first, second = exported(GROUPS, "argilla", ORIGIN)
    assert first["fields"] == {
        "prompt": "Say hi",
        "response-1": "hi",
        "response-2": "hello",
        "response-3": "go away",
    }
    assert first["suggestions"]["ranking"]["value"] == ["response-2", "response-1", "response-3"]
    assert second["suggestions"] == {}


def test_label_studio_shows_the_responses_and_suggests_their_order():
    first, second = exported(GROUPS, "label-studio", ORIGIN)
    assert [item["body"] for item in first["data"]["responses"]] == ["hi", "hello", "go away"]
    (result,) = first["predictions"][0]["result"]
    assert result["value"] == {"ranker": {"rank": ["response-2", "response-1", "response-3"]}}
    assert "predictions" not in second


def test_an_export_of_argilla_comes_back_as_one_ranking_a_person(tmp_path):
    record = exported(GROUPS, "argilla", ORIGIN)[0]
    record["responses"] = {
        "ranking": [
            {"value": ["response-3", "response-1", "response-2"], "user_id": "ann"},
            {"value": ["response-1"], "user_id": "bob", "status": "draft"},
        ]
    }
    path = write(tmp_path / "export.json", [record, exported(GROUPS, "argilla", ORIGIN)[1]])
    assert read_labeled(path) == [
        {
            "prompt": "Say hi",
            "responses": ["go away", "hi", "hello"],
            "ranks": [1, 2, 3],
            "source": "labeler ann",
        }
    ]
    assert policies_in(path) == ["4c6f"]


def test_an_export_of_label_studio_comes_back_as_rankings(tmp_path):
    task = exported(GROUPS, "label-studio", ORIGIN)[1]
    result = {"type": "ranker", "value": {"ranker": {"rank": ["response-2", "response-1"]}}}
    task["annotations"] = [
        {"completed_by": 7, "was_cancelled": False, "result": [result]},
        {"completed_by": 8, "was_cancelled": True, "result": [result]},
    ]
    path = write(tmp_path / "export.jsonl", [task])
    assert read_labeled(path) == [
        {
            "prompt": "Say bye",
            "responses": ["farewell", "bye"],
            "ranks": [1, 2],
            "source": "labeler 7",
        }
    ]


@pytest.mark.parametrize(
    "text, found",
    [
        ("[{", "is not JSON"),
        ("[1]", "document 1 is a int"),
        ('{"fields": {"prompt": "p"}, "responses": {"ranking": [{}]}}', "document 1 is not"),
        ('{"data": {"prompt": "p", "responses": []}}', "holds no ranking"),
        ('{"anything": 1}', "document 1 is not an export"),
        ("", "holds no ranking"),
    ],
)
def test_what_is_no_export_is_refused_by_document(tmp_path, text, found):
    path = tmp_path / "export.json"
    path.write_text(text)
    with pytest.raises(DataError, match=found):
        read_labeled(path)


def test_one_list_is_written_to_json_and_lines_to_anything_else(tmp_path):
    documents = exported(GROUPS, "rlhf", ORIGIN)
    assert json.loads(write(tmp_path / "a.json", documents).read_text()) == documents
    lines = write(tmp_path / "a.jsonl", documents).read_text().splitlines()
    assert [json.loads(line) for line in lines] == documents


def test_argilla_itself_reads_the_records():
    argilla = pytest.importorskip("argilla", reason="Argilla's package is not installed")
    record = argilla.Record.from_dict(exported(GROUPS, "argilla", ORIGIN)[0])
    assert record.fields["response-2"] == "hello"
    assert record.suggestions["ranking"].value[0] == "response-2"


def test_label_studio_itself_accepts_the_tasks():
    reason = "Label Studio's package is not installed"
    interfaces = pytest.importorskip("label_studio_sdk.label_interface", reason=reason)
    interface = interfaces.LabelInterface(LABEL_STUDIO_CONFIG)
    for task in exported(GROUPS, "label-studio", ORIGIN):
        for prediction in task.pop("predictions", []):
            assert interface.validate_prediction(prediction)
        assert interface.validate_task(task)
