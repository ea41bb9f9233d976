"""One row that breaks one rule, beside its twin that breaks none."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf_core.data.comparing import check_rows
from rlhf_core.data.faults import Fault
from rlhf_core.data.near_names import nearly_known
from rlhf_core.data.rows import Form, Row, RowReader
from rlhf_core.data.rules import RULES
from rlhf_core.data.sources import LocalFile, RawRow, read_file

PAIR = {"prompt": "Is 2 even?", "chosen": "Yes, it is.", "rejected": "Who can say?"}
SHOWN = {"prompt": "Say a.", "response": "a"}

USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}
SYSTEM = {"role": "system", "content": "Be brief."}
OTHER = {"role": "assistant", "content": "Go away."}


def reader(form: Form, split_by: str = "prompt", **columns: str) -> RowReader:
    return RowReader(form, columns, split_by, opening_sentences=1)


def read(form: Form, fields: dict[str, object]) -> Row | Fault:
    return reader(form).read(RawRow("a.jsonl", 7, fields))


def row_of(form: Form, fields: dict[str, object]) -> Row:
    found = read(form, fields)
    assert isinstance(found, Row), found
    return found


def fault_of(form: Form, fields: dict[str, object]) -> Fault:
    found = read(form, fields)
    assert isinstance(found, Fault), found
    assert (found.file, found.line) == ("a.jsonl", 7)
    assert found.seen.isprintable()
    assert len(found.seen) < 400
    return found


def rules_of(form: Form, fields: dict[str, object]) -> list[tuple[str, str]]:
    """Rule and field of all faults of a row, as the gate would find them."""
    found = read(form, fields)
    if isinstance(found, Fault):
        return [(found.rule, found.field)]
    return [(fault.rule, fault.field) for fault in check_rows([found], "preferences")]


@pytest.mark.parametrize(
    "changed,rule,field",
    [
        ({"chosen": "Who can say?"}, "PREF-004", "chosen"),
        ({"chosen": " Who can say?\n"}, "PREF-004", "chosen"),
        ({"chosen": "caf\u00e9", "rejected": "cafe\u0301"}, "PREF-004", "chosen"),
        ({"prompt": ""}, "TXT-001", "prompt"),
        ({"prompt": " \t\n\u00a0\u3000"}, "TXT-001", "prompt"),
        ({"chosen": "\u200b\u200d\ufeff\u2060"}, "TXT-001", "chosen"),
        ({"rejected": "\u2800\u3164"}, "TXT-001", "rejected"),
        ({"prompt": None}, "SCH-001", "prompt"),
        ({"prompt": 7}, "SCH-004", "prompt"),
        ({"chosen": True}, "SCH-004", "chosen"),
        ({"chosen": {"text": "a"}}, "SCH-004", "chosen"),
        ({"rejected": 0.5}, "SCH-004", "rejected"),
        ({"rejected": "a\0b"}, "TXT-003", "rejected"),
        ({"rejected": "a\x1bb"}, "TXT-003", "rejected"),
        ({"rejected": "a\x7fb"}, "TXT-003", "rejected"),
        ({"rejected": "a\ud83d"}, "TXT-002", "rejected"),
        ({"source": None}, "SCH-001", "source"),
        ({"group": ["a"]}, "SCH-004", "group"),
        ({"group": "a\ud83d"}, "TXT-002", "group"),
        ({"source": "\udc00"}, "TXT-002", "source"),
    ],
)
def test_a_broken_pair_is_named_by_rule_and_field(changed, rule, field):
    assert rules_of("pairs", {**PAIR, **changed}) == [(rule, field)]
    assert RULES[rule].action in ("refuse", "set_aside")


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "007"},
        {"prompt": "null", "chosen": "NaN", "rejected": "-0"},
        {"prompt": "=cmd()|' /C calc'!A0", "chosen": "@SUM(A1)", "rejected": "+1"},
        {"__class__": "x", "$ref": "#/a", "__proto__": {}, "constructor": 1, "": 2},
        {"extra": None, "idx": 3, "tags": ["a"], "meta": {"a": [1]}},
        {"chosen": "Yes,\tit is.\r\nI am\u2028sure.", "prompt": "می\u200cخواهم"},
        {"chosen": "👨\u200d👩\u200d👧", "rejected": "👨👩👧"},
        {"chosen": "Straße", "rejected": "Strasse"},
        {"chosen": "a", "rejected": "A"},
        {"source": 3, "group": "g"},
        {"margin": -0.0},
        {"margin": 0, "chosen_score": 1, "rejected_score": 9},
    ],
)
def test_what_is_unusual_in_a_pair_and_right_is_kept_as_it_stands(changed):
    fields = {**PAIR, **changed}
    assert rules_of("pairs", fields) == []
    row = row_of("pairs", fields)
    assert (row.prompt, *row.responses) == (fields["prompt"], fields["chosen"], fields["rejected"])
    assert reader("pairs").remarks(RawRow("a.jsonl", 1, fields)) == []


@pytest.mark.parametrize(
    "value,seen",
    [
        (7, "the number 7, expected a text"),
        (0.5, "the number 0.5, expected a text"),
        (2**70, "a number, expected a text"),
        (False, "false, expected a text"),
        ({"text": "a", "b": 1}, "an object with the keys 'text', 'b', expected a text"),
        ({}, "an object without keys, expected a text"),
        (b"a", "bytes, expected a text"),
        (["a", "b"], "a list of 2, expected a text, or messages with role and content"),
    ],
)
def test_what_stands_in_place_of_a_text_is_shown(value, seen):
    assert fault_of("pairs", {**PAIR, "chosen": value}).seen == seen


@pytest.mark.parametrize(
    "renamed,missing",
    [
        ("chosn", "chosen"),
        ("Chosen", "chosen"),
        ("CHOSEN", "chosen"),
        ("reject", "rejected"),
        ("rejectd", "rejected"),
        ("prompts", "prompt"),
    ],
)
def test_a_renamed_key_is_told_with_the_nearest_name(renamed, missing):
    fields = {renamed if key == missing else key: value for key, value in PAIR.items()}
    fault = fault_of("pairs", fields)
    assert (fault.rule, fault.field) == ("SCH-002", missing)
    assert f"did {renamed!r} mean it?" in fault.seen


@pytest.mark.parametrize(
    "key,name",
    [
        ("margins", "margin"),
        ("Margin", "margin"),
        ("soruce", "source"),
        ("souce", "source"),
        ("groop", "group"),
        ("confidense", "confidence"),
    ],
)
def test_a_key_that_is_nearly_a_known_one_is_a_warning_beside_the_row(key, name):
    raw = RawRow("a.jsonl", 7, {**PAIR, key: 1})
    assert isinstance(reader("pairs").read(raw), Row)
    (fault,) = reader("pairs").remarks(raw)
    assert (fault.rule, fault.line, fault.field) == ("SCH-003", 7, key)
    assert f"nearest is {name!r}" in fault.seen
    assert RULES["SCH-003"].action == "warn"
    assert reader("pairs").remarks(RawRow("a.jsonl", 7, {**PAIR, key: 1, name: 1})) == []
    assert reader("pairs", **{name: key}).remarks(raw) == []


@pytest.mark.parametrize(
    "key", ["id", "prompt_id", "messages", "model", "lang", "course", "resource", "origin", "score"]
)
def test_other_columns_are_harmless(key):
    assert nearly_known(key, ["margin", "source", "group", "confidence", "rejected"]) is None


def test_columns_that_the_form_does_not_need_are_near_to_nothing():
    dialogue = {"messages": [USER, ASSISTANT], "prompts": [], "margins": 1, "Chosen": "a"}
    assert reader("messages").remarks(RawRow("a.jsonl", 1, dialogue)) == []


def test_the_one_odd_row_of_many_is_named_at_its_line(tmp_path):
    row = json.dumps(PAIR)
    odd = json.dumps({**PAIR, "chosen": ["Yes"]})
    lines = [row] * 100_000
    lines[77_776] = odd
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines))
    pairs = reader("pairs")
    found = [
        pairs.read(raw)
        for raw in read_file(LocalFile("a.jsonl", path, "", 0))
        if isinstance(raw, RawRow)
    ]
    faults = [row for row in found if isinstance(row, Fault)]
    assert len(found) == 100_000
    assert [(fault.rule, fault.line, fault.field) for fault in faults] == [
        ("SCH-004", 77_777, "chosen")
    ]


@pytest.mark.parametrize(
    "given,rule,field",
    [
        ({"margin": float("nan")}, "NUM-001", "margin"),
        ({"margin": float("inf")}, "NUM-001", "margin"),
        ({"margin": float("-inf")}, "NUM-001", "margin"),
        ({"margin": 2**70}, "NUM-001", "margin"),
        ({"margin": 1e300}, "NUM-001", "margin"),
        ({"chosen_score": 2**70, "rejected_score": 1}, "NUM-001", "chosen_score"),
        ({"score_chosen": 1, "score_rejected": float("nan")}, "NUM-001", "score_rejected"),
        ({"confidence": float("nan")}, "NUM-001", "confidence"),
        ({"score": 2**70}, "NUM-001", "score"),
        ({"margin": "0.5"}, "SCH-004", "margin"),
        ({"margin": True}, "SCH-004", "margin"),
        ({"margin": -1}, "PREF-006", "margin"),
        ({"margin": 1, "chosen_score": 2, "rejected_score": 3}, "PREF-006", "margin"),
        ({"margin": 0.5, "rating-chosen": 2, "rating-rejected": 3}, "PREF-006", "margin"),
        ({"margin": -1, "score_chosen": 3, "score_rejected": 2}, "PREF-006", "margin"),
    ],
)
def test_a_number_that_says_nothing_or_the_opposite_is_named(given, rule, field):
    fault = fault_of("pairs", {**PAIR, **given})
    assert (fault.rule, fault.field) == (rule, field)


@pytest.mark.parametrize(
    "given,margin",
    [
        ({"margin": -0.0}, 0.0),
        ({"margin": 2**53}, 2.0**53),
        ({"margin": 1.5, "chosen_score": 4.5, "rejected_score": 3}, 1.5),
        ({"margin": 1, "chosen_score": 3, "rejected_score": 3}, 1.0),
        ({"margin": 1, "chosen_score": None, "rejected_score": 3}, 1.0),
        ({"margin": 1, "chosen_score": "high", "rejected_score": "low"}, 1.0),
        ({"margin": None, "chosen_score": 3, "rejected_score": 2}, None),
        ({"score": 0.5}, None),
        ({"unrelated": 2**70, "loss": float("nan")}, None),
    ],
)
def test_a_number_that_agrees_is_kept(given, margin):
    raw = RawRow("a.jsonl", 7, {**PAIR, **given})
    row = reader("pairs").read(raw)
    assert isinstance(row, Row), row
    assert row.margin == margin
    assert reader("pairs").remarks(raw) == []


def test_scores_that_prefer_the_rejected_response_are_a_warning_where_no_margin_stands():
    raw = RawRow("a.jsonl", 7, {**PAIR, "score_chosen": 2, "score_rejected": 3})
    assert isinstance(reader("pairs").read(raw), Row)
    (fault,) = reader("pairs").remarks(raw)
    assert (fault.rule, fault.field) == ("PREF-007", "score_rejected")
    assert fault.seen == "score_rejected 3 is above score_chosen 2"


def test_a_margin_that_pandas_left_out_is_no_number(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({**{key: [value] * 2 for key, value in PAIR.items()}, "margin": [0.5, None]})
    pq.write_table(table, path)
    file = LocalFile("a.parquet", path, "", 0)
    margins = [reader("pairs").read(raw).margin for raw in read_file(file)]
    assert margins == [0.5, None]


@pytest.mark.parametrize(
    "messages,rule,said",
    [
        ([], "ROLE-005", "an empty list"),
        ([SYSTEM], "ROLE-005", "1 messages"),
        ([ASSISTANT], "ROLE-001", "index 0"),
        ([SYSTEM, ASSISTANT], "ROLE-001", "index 1"),
        ([USER, USER, ASSISTANT], "ROLE-002", "index 1"),
        ([USER, ASSISTANT, ASSISTANT], "ROLE-002", "index 2"),
        ([USER, SYSTEM, ASSISTANT], "ROLE-003", "index 1"),
        ([SYSTEM, SYSTEM, USER, ASSISTANT], "ROLE-003", "index 1"),
        ([USER, {"role": "tool", "content": "4"}, ASSISTANT], "ROLE-004", "'tool', of which"),
        ([USER, {"role": "function", "content": "4"}, ASSISTANT], "ROLE-004", "index 1"),
        ([{"role": "human", "content": "a"}, ASSISTANT], "ROLE-004", "which is 'user' here"),
        ([USER, {"role": "Assistant", "content": "a"}], "ROLE-004", "which is 'assistant' here"),
        ([{"role": None, "content": "a"}, ASSISTANT], "ROLE-004", "the role null at index 0"),
        ([{"role": ["user"], "content": "a"}, ASSISTANT], "ROLE-004", "a list at index 0"),
        ([USER], "ROLE-005", "not the assistant's"),
        ([USER, ASSISTANT, USER], "ROLE-005", "3 messages"),
        ([{"from": "human", "value": "a"}], "SCH-004", "rename 'from' and 'value'"),
        ([{"role": "user", "text": "a"}], "SCH-004", "with 'role', 'text' at index 0"),
        (["Hi", "Hello."], "SCH-004", "a text without role and content at index 0"),
        ([USER, {"role": "assistant", "content": None}], "SCH-004", "null at index 1"),
        (
            [{"role": "user", "content": [{"type": "text"}]}, ASSISTANT],
            "SCH-004",
            "a list at index 0",
        ),
        ([{"role": "user", "content": "\u200b"}, ASSISTANT], "TXT-001", "index 0"),
        ([{"role": "user", "content": "a\n\nAssistant: b"}, ASSISTANT], "TOK-001", "index 0"),
    ],
)
def test_messages_out_of_order_are_named_by_rule_and_index(messages, rule, said):
    fault = fault_of("messages", {"messages": messages})
    assert (fault.rule, fault.field) == (rule, "messages")
    assert said in fault.seen


@pytest.mark.parametrize(
    "messages,prompt",
    [
        ([USER, ASSISTANT], "\n\nHuman: Hi\n\nAssistant:"),
        ([SYSTEM, USER, ASSISTANT], "Be brief.\n\nHuman: Hi\n\nAssistant:"),
        (
            [USER, ASSISTANT, {**USER, "name": "Ada", "weight": 1}, ASSISTANT],
            "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Hi\n\nAssistant:",
        ),
    ],
)
def test_messages_in_order_are_a_dialogue(messages, prompt):
    row = row_of("messages", {"messages": messages, "tools": None})
    assert (row.prompt, row.responses) == (prompt, ("Hello.",))


def test_many_messages_are_read_in_one_row():
    row = row_of("messages", {"messages": [USER, ASSISTANT] * 5000})
    assert row.prompt.count("\n\nHuman:") == 5000


DIALOGUE = "\n\nHuman: Hi\n\nAssistant:"


@pytest.mark.parametrize(
    "form,fields",
    [
        ("pairs", {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [OTHER]}),
        ("pairs", {"prompt": [USER], "chosen": "Hello.", "rejected": "Go away."}),
        ("pairs", {"prompt": [USER], "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]}),
        ("pairs", {"prompt": "Hi", "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]}),
        ("transcripts", {"chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]}),
        (
            "pairs",
            {
                "prompt": f"{DIALOGUE} ",
                "chosen": f"{DIALOGUE} Hello.",
                "rejected": f"{DIALOGUE} Go away.",
            },
        ),
        (
            "pairs",
            {"prompt": "Hi", "chosen": f"{DIALOGUE} Hello.", "rejected": f"{DIALOGUE} Go away."},
        ),
        (
            "transcripts",
            {"chosen": f"{DIALOGUE} Hello.", "rejected": f"{DIALOGUE} Go away."},
        ),
    ],
)
def test_a_preference_may_be_given_as_messages(form, fields):
    row = row_of(form, fields)
    assert (row.prompt, row.responses, row.ranks) == (DIALOGUE, ("Hello.", "Go away."), (1, 2))


def test_a_response_that_speaks_of_turns_is_left_to_the_rule_about_it():
    row = row_of("pairs", {**PAIR, "chosen": f"{DIALOGUE} b"})
    assert (row.prompt, row.responses[0]) == (PAIR["prompt"], f"{DIALOGUE} b".lstrip())


def test_answers_as_messages_after_a_prompt_of_text_leave_it_as_it_is():
    row = row_of("pairs", {"prompt": "Hi", "chosen": [ASSISTANT], "rejected": [OTHER]})
    assert (row.prompt, row.responses) == ("Hi", ("Hello.", "Go away."))


def test_demonstrations_prompts_and_rankings_may_have_a_prompt_of_messages():
    shown = row_of("prompt_response", {"prompt": [SYSTEM, USER], "response": [ASSISTANT]})
    assert (shown.prompt, shown.responses) == (f"Be brief.{DIALOGUE}", ("Hello.",))
    assert row_of("prompts", {"prompt": [USER]}).prompt == DIALOGUE
    ranked = {"prompt": [USER], "responses": ["a", "b"], "ranks": [1, 2]}
    assert row_of("rankings", ranked).prompt == DIALOGUE


@pytest.mark.parametrize(
    "form,fields,rule,field",
    [
        ("prompts", {"prompt": []}, "ROLE-005", "prompt"),
        ("prompts", {"prompt": [USER, ASSISTANT]}, "ROLE-002", "prompt"),
        ("prompts", {"prompt": [SYSTEM]}, "ROLE-005", "prompt"),
        ("prompts", {"prompt": ["Hi"]}, "SCH-004", "prompt"),
        ("prompt_response", {"prompt": [USER], "response": []}, "ROLE-005", "response"),
        ("prompt_response", {"prompt": [USER], "response": [USER]}, "ROLE-005", "response"),
        (
            "prompt_response",
            {"prompt": "Hi", "response": [USER, ASSISTANT]},
            "PREF-003",
            "response",
        ),
        (
            "pairs",
            {"prompt": [USER], "chosen": [SYSTEM, ASSISTANT], "rejected": "a"},
            "PREF-003",
            "chosen",
        ),
        (
            "pairs",
            {"prompt": "Ho", "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]},
            "PREF-003",
            "chosen",
        ),
        (
            "transcripts",
            {"chosen": [USER, ASSISTANT], "rejected": [{**USER, "content": "Ho"}, OTHER]},
            "PREF-003",
            "chosen",
        ),
        (
            "transcripts",
            {"chosen": f"{DIALOGUE} a", "rejected": "\n\nHuman: Ho\n\nAssistant: b"},
            "PREF-003",
            "chosen",
        ),
        ("transcripts", {"chosen": "a", "rejected": "b"}, "PREF-003", "chosen"),
        (
            "pairs",
            {"prompt": DIALOGUE, "chosen": f"{DIALOGUE} a", "rejected": "b"},
            "PREF-003",
            "chosen",
        ),
        (
            "pairs",
            {"prompt": "Ho", "chosen": f"{DIALOGUE} a", "rejected": f"{DIALOGUE} b"},
            "PREF-003",
            "chosen",
        ),
        (
            "transcripts",
            {"chosen": f"{DIALOGUE} a", "rejected": f"{DIALOGUE} b\n\nHuman: c"},
            "PREF-009",
            "rejected",
        ),
    ],
)
def test_messages_that_do_not_fit_their_prompt_are_named(form, fields, rule, field):
    fault = fault_of(form, fields)
    assert (fault.rule, fault.field) == (rule, field)


HOSTILE = "a\x1b[31m\u202e\n" + "b" * 500


@pytest.mark.parametrize(
    "form,fields",
    [
        ("pairs", {HOSTILE: 1}),
        ("pairs", dict.fromkeys(map(str, range(100_000)), 1)),
        ("messages", {"messages": [{HOSTILE: HOSTILE}]}),
        ("messages", {"messages": [{"role": HOSTILE, "content": "a"}]}),
        ("rankings", {"prompt": "p", "responses": ["a"], "ranks": [HOSTILE] * 100}),
        ("pairs", {"prompt": HOSTILE, "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]}),
        ("pairs", {**PAIR, "margin": 10**4000}),
    ],
)
def test_what_is_shown_of_a_row_is_short_and_safe(form, fields):
    fault_of(form, fields)
    for remark in reader(form).remarks(RawRow("a.jsonl", 1, fields)):
        assert remark.seen.isprintable()
        assert remark.field.isprintable()


def test_a_file_with_a_strange_column_is_read_as_it_stands(tmp_path):
    fields = {**SHOWN, "__class__": "os.system", "$ref": "#/x", "=cmd()": "=1+1"}
    path: Path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(fields))
    pq.write_table(pa.Table.from_pylist([fields]), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        (raw,) = read_file(LocalFile(name, tmp_path / name, "", 0))
        assert isinstance(raw, RawRow)
        assert raw.fields == fields
        row = reader("prompt_response").read(raw)
        assert isinstance(row, Row)
        assert (row.prompt, row.best) == ("Say a.", "a")
