import pytest

from rlhf_core.data.comparing import check_rows
from rlhf_core.data.comparisons import NumberedRow, join_rankings
from rlhf_core.data.dialogues import render_messages, split_opening, split_transcripts
from rlhf_core.data.faults import Fault, render_faults
from rlhf_core.data.rows import Form, Row, RowReader, form_of
from rlhf_core.data.sources import RawRow
from rlhf_core.data.unusable import UnusableError
from rlhf_core.errors import DataError


def read(form: Form, fields: dict[str, object], split_by: str = "prompt") -> Row | Fault:
    return RowReader(form, {}, split_by, opening_sentences=1).read(RawRow("a.jsonl", 7, fields))


def row(line: int, prompt: str, *responses: str, ranks: tuple[int, ...] = (), group="") -> Row:
    return Row(prompt, responses, ranks, "a", group, prompt, "a.jsonl", line)


def numbered(rows: list[Row]) -> list[NumberedRow]:
    return [NumberedRow(number, row) for number, row in enumerate(rows)]


def turn(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    "columns,table,form",
    [
        ({"prompt", "response"}, "demonstrations", "prompt_response"),
        ({"prompt", "chosen", "rejected", "group"}, "preferences", "pairs"),
        ({"chosen", "rejected"}, "preferences", "transcripts"),
        ({"prompt", "responses", "ranks"}, "preferences", "rankings"),
        ({"messages"}, "demonstrations", "messages"),
        ({"text", "label"}, "demonstrations", "text"),
        ({"prompt"}, "prompts", "prompts"),
        ({"prompt", "response"}, "prompts", "prompt_response"),
        ({"prompt", "chosen", "rejected"}, "demonstrations", "pairs"),
    ],
)
def test_the_form_is_told_from_the_columns(columns, table, form):
    assert form_of(RawRow("a.jsonl", 1, dict.fromkeys(columns, "x")), {}, table) == form


@pytest.mark.parametrize(
    "columns,table", [({"question"}, "demonstrations"), ({"prompt", "response"}, "preferences")]
)
def test_columns_that_tell_no_form_are_named(columns, table):
    with pytest.raises(DataError) as caught:
        form_of(RawRow("a.jsonl", 3, dict.fromkeys(columns, "x")), {}, table)
    message = str(caught.value)
    assert message.startswith('a.jsonl:3  field "(whole line)"  rule SCH-002')
    assert "the row has " + ", ".join(map(repr, sorted(columns))) in message
    assert f"--set data.{table}.columns=" in message


def test_the_border_between_prompt_and_response_holds_no_space():
    found = read("pairs", {"prompt": "TL;DR: ", "chosen": " good ", "rejected": "\n\nbad"})
    assert isinstance(found, Row)
    assert (found.prompt, found.responses, found.ranks) == ("TL;DR:", ("good ", "bad"), (1, 2))


def test_renamed_columns_are_read_under_our_names():
    reader = RowReader("prompt_response", {"prompt": "q", "response": "a"}, "prompt", 1)
    found = reader.read(RawRow("a.jsonl", 1, {"q": "2 + 2?", "a": "4"}))
    assert isinstance(found, Row)
    assert (found.prompt, found.best) == ("2 + 2?", "4")


def test_the_best_response_has_the_lowest_rank():
    ranking = {"prompt": "p", "responses": ["c", "a", "b"], "ranks": [3, 1, 2]}
    found = read("rankings", ranking)
    assert isinstance(found, Row)
    assert found.best == "a"


def test_the_key_of_a_prompt_ignores_case_and_spacing():
    keys = {read("prompts", {"prompt": prompt}).key for prompt in ("A  b", "a b\n", " a\tB")}
    assert keys == {"a b"}


def test_the_key_may_be_a_column():
    found = read("prompts", {"prompt": "p", "group": 3}, split_by="group")
    assert isinstance(found, Row)
    assert found.key == "3"


@pytest.mark.parametrize(
    "form,fields,rule,field",
    [
        ("pairs", {"prompt": None, "chosen": "a", "rejected": "b"}, "SCH-001", "prompt"),
        ("pairs", {"prompt": "p", "chosen": "a"}, "SCH-002", "rejected"),
        ("pairs", {"prompt": "p", "chosen": "a", "rejected": 7}, "SCH-004", "rejected"),
        ("pairs", {"prompt": "p", "chosen": ["a"], "rejected": "b"}, "SCH-004", "chosen"),
        ("rankings", {"prompt": "p", "responses": "ab", "ranks": [1, 2]}, "SCH-004", "responses"),
        ("rankings", {"prompt": "p", "responses": ["a", "b"], "ranks": [1]}, "PREF-001", "ranks"),
        ("rankings", {"prompt": "p", "responses": ["a"], "ranks": [1]}, "PREF-001", "ranks"),
        (
            "rankings",
            {"prompt": "p", "responses": ["a", "b"], "ranks": [0, 1]},
            "PREF-001",
            "ranks",
        ),
        (
            "rankings",
            {"prompt": "p", "responses": ["a", "b"], "ranks": [1, True]},
            "PREF-001",
            "ranks",
        ),
        ("transcripts", {"chosen": "a", "rejected": "a b"}, "PREF-003", "chosen"),
        ("messages", {"messages": []}, "ROLE-005", "messages"),
        ("text", {"text": "One sentence only."}, "TXT-004", "text"),
    ],
)
def test_a_row_that_lacks_something_is_a_fault_with_its_place(form, fields, rule, field):
    found = read(form, fields)
    assert isinstance(found, Fault)
    assert (found.rule, found.file, found.line, found.field) == (rule, "a.jsonl", 7, field)


def test_a_missing_key_names_the_one_that_may_be_meant():
    found = read("prompt_response", {"prompt": "p", "respones": "r"})
    assert isinstance(found, Fault)
    assert "did 'respones' mean it?" in found.seen


def test_messages_become_the_turns_of_a_dialogue():
    messages = [
        turn("system", "Be brief."),
        turn("user", "Hi"),
        turn("assistant", "Hello."),
        turn("user", "2 + 2?"),
        turn("assistant", "4"),
    ]
    found = read("messages", {"messages": messages})
    assert isinstance(found, Row)
    assert found.prompt == (
        "Be brief.\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: 2 + 2?\n\nAssistant:"
    )
    assert found.responses == ("4",)


@pytest.mark.parametrize(
    "messages,rule,place",
    [
        ([turn("assistant", "a")], "ROLE-001", "index 0"),
        ([turn("user", "a"), turn("user", "b"), turn("assistant", "c")], "ROLE-002", "index 1"),
        ([turn("user", "a"), turn("system", "b"), turn("assistant", "c")], "ROLE-003", "index 1"),
        ([turn("user", "a"), turn("tool", "b")], "ROLE-004", "index 1"),
        ([turn("user", "a")], "ROLE-005", "1 messages"),
        ([turn("user", " "), turn("assistant", "b")], "TXT-001", "index 0"),
        ([turn("user", "a\n\nAssistant: b"), turn("assistant", "c")], "TOK-001", "index 0"),
        ([turn("user", 3), turn("assistant", "c")], "SCH-004", "index 0"),
        ([{"from": "human"}], "SCH-004", "index 0"),
    ],
)
def test_messages_out_of_order_are_named_by_index(messages, rule, place):
    with pytest.raises(UnusableError) as caught:
        render_messages(messages, "messages")
    assert caught.value.rule == rule
    assert place in caught.value.seen


def test_transcripts_are_split_after_the_last_shared_turn_marker():
    shared = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: 2 + 2?\n\nAssistant:"
    split = split_transcripts(shared + " It is 4.", shared + " It is five.")
    assert split == (shared, " It is 4.", " It is five.")


def test_a_transcript_that_goes_on_alone_is_not_taken_for_a_response():
    shared = "\n\nHuman: Hi\n\nAssistant:"
    with pytest.raises(UnusableError) as caught:
        split_transcripts(shared + " A", shared + " B\n\nHuman: More\n\nAssistant: C")
    assert (caught.value.rule, caught.value.field) == ("PREF-009", "rejected")


def test_pairs_of_message_lists_share_their_first_turns():
    start = [turn("user", "2 + 2?")]
    chosen, rejected = [*start, turn("assistant", "4")], [*start, turn("assistant", "5")]
    found = read("transcripts", {"chosen": chosen, "rejected": rejected})
    assert isinstance(found, Row)
    assert (found.prompt, found.responses) == ("\n\nHuman: 2 + 2?\n\nAssistant:", ("4", "5"))


@pytest.mark.parametrize(
    "text,sentences,opening",
    [
        ("A cat. It ran.", 1, "A cat."),
        ('"Come!" she said. They went.', 1, '"Come!"'),
        ("Pi is 3.14 today. Yes.", 1, "Pi is 3.14 today."),
        ("One. Two! Three?", 2, "One. Two!"),
        ("猫がいた。走った。", 1, "猫がいた。"),
        ("Why?\n\nBecause.", 1, "Why?"),
    ],
)
def test_a_story_is_cut_after_its_opening_sentences(text, sentences, opening):
    found, rest = split_opening(text, sentences)
    assert found == opening
    assert found + rest == text


def test_comparisons_of_a_group_become_the_ranking_they_say():
    # a beats b, c and d; b and c beat d and were never compared: they tie
    wins = [("a", "b"), ("a", "c"), ("a", "d"), ("b", "d"), ("c", "d")]
    pairs = [
        row(line, "p", better, worse, ranks=(1, 2), group="g")
        for line, (better, worse) in enumerate(wins, start=1)
    ]
    other = row(9, "q", "x", "y", ranks=(1, 2), group="h")
    joined = join_rankings(numbered([pairs[0], other, *pairs[1:]]))
    assert joined.faults == []
    assert [(r.line, r.responses, r.ranks) for _, r in joined.rows] == [
        (1, ("a", "b", "c", "d"), (1, 2, 2, 4)),
        (9, ("x", "y"), (1, 2)),
    ]


@pytest.mark.parametrize(
    "wins", [[("a", "b"), ("b", "c"), ("c", "a")], [("a", "b"), ("b", "c")], [("a", "b")] * 2]
)
def test_comparisons_that_are_no_ranking_stay_pairs_and_are_named(wins):
    pairs = [
        row(line, "p", better, worse, ranks=(1, 2), group="g")
        for line, (better, worse) in enumerate(wins, start=1)
    ]
    joined = join_rankings(numbered(pairs))
    assert [row for _, row in joined.rows] == pairs
    assert [(fault.rule, fault.line) for _, fault in joined.faults] == [("PREF-008", 1)]


@pytest.mark.parametrize(
    "bad,rule,field",
    [
        (row(2, " \n", "a", "b", ranks=(1, 2)), "TXT-001", "prompt"),
        (row(2, "p", "", "b", ranks=(1, 2)), "TXT-001", "chosen"),
        (row(2, "p", "a", "\u200b\ufeff", ranks=(1, 2)), "TXT-001", "rejected"),
        (row(2, "p", "a\ud800", "b", ranks=(1, 2)), "TXT-002", "chosen"),
        (row(2, "p", "a", "b\x00c", ranks=(1, 2)), "TXT-003", "rejected"),
        (row(2, "p", "a", "b", "c\x1b", ranks=(1, 2, 3)), "TXT-003", "responses[2]"),
        (row(2, "p", "a", "b", ranks=(1, 1)), "PREF-002", "ranks"),
        (row(2, "p", "same", "same", ranks=(1, 2)), "PREF-004", "chosen"),
        (row(2, "p", "same", "same \n", ranks=(1, 2)), "PREF-004", "chosen"),
        (row(2, "p", "caf\u00e9", "cafe\u0301", ranks=(1, 2)), "PREF-004", "chosen"),
        (row(2, "first", "y", "x", ranks=(1, 2)), "PREF-005", "chosen"),
        (row(2, "first", "x", "y", ranks=(1, 2)), "DUP-001", "prompt"),
        (row(2, "first", "y", "x", ranks=(2, 1)), "DUP-001", "prompt"),
    ],
)
def test_a_row_that_cannot_teach_is_named_by_rule_and_field(bad, rule, field):
    first = row(1, "first", "x", "y", ranks=(1, 2))
    last = row(3, "last", "x", "y", ranks=(1, 2))
    faults = check_rows([first, bad, last], "preferences")
    assert [(fault.rule, fault.line, fault.field) for fault in faults] == [(rule, 2, field)]


def test_text_of_every_kind_that_people_write_raises_no_alarm():
    texts = [
        "Ünïcödé, ελληνικά, кириллица, עברית, العربية, हिन्दी, 中文, 日本語, 한국어, ไทย",
        "def f(x):\n\treturn x ** 2  # ∑ α≤β\r\n",
        "<b>bold</b> & =cmd() __class__ $ref \\u0000",
        "family 👨\u200d👩\u200d👧, line\u2028separator, nbsp\u00a0",
    ]
    rows = [row(line, text, text + "!") for line, text in enumerate(texts, start=1)]
    assert check_rows(rows, "demonstrations") == []


def test_equal_responses_of_equal_rank_contradict_nothing():
    assert check_rows([row(1, "p", "a", "a", "b", ranks=(1, 1, 3))], "preferences") == []


def test_twenty_faults_of_a_rule_are_shown_and_all_are_counted():
    faults = [Fault("TXT-001", "a.jsonl", line, "prompt", "0 characters") for line in range(1, 31)]
    shown = render_faults([*faults, Fault("DUP-001", "a.jsonl", 31, "prompt", "equal")])
    assert shown.count("rule TXT-001 blank-text") == 20
    assert "... and 10 more rows of this rule" in shown
    assert shown.count("rule DUP-001") == 1
    assert shown.count("  mend: ") == 2


@pytest.mark.parametrize(
    "fields,margin,confidence",
    [
        ({}, None, ""),
        ({"margin": 0.5, "confidence": "sure"}, 0.5, "sure"),
        ({"margin": 2, "confidence": 7}, 2.0, "7"),
        ({"margin": None, "confidence": None}, None, ""),
        ({"confidence": 0.25}, None, "0.25"),
    ],
)
def test_a_preference_may_say_its_margin_and_how_sure_its_labeler_was(fields, margin, confidence):
    found = read("pairs", {"prompt": "p", "chosen": "a", "rejected": "b", **fields})
    assert isinstance(found, Row)
    assert (found.margin, found.confidence) == (margin, confidence)


@pytest.mark.parametrize("margin", ["much", True, [1]])
def test_a_margin_that_is_none_is_named(margin):
    found = read("pairs", {"prompt": "p", "chosen": "a", "rejected": "b", "margin": margin})
    assert isinstance(found, Fault)
    assert (found.rule, found.field) == ("SCH-004", "margin")


def test_pairs_of_one_group_that_differ_in_margin_stay_pairs():
    wide, narrow = (
        Row("p", (better, worse), (1, 2), "a", "g", "p", "a.jsonl", line, margin=margin)
        for line, better, worse, margin in ((1, "a", "b", 1.0), (2, "b", "c", 0.5))
    )
    third = Row("p", ("a", "c"), (1, 2), "a", "g", "p", "a.jsonl", 3, margin=1.0)
    joined = join_rankings(numbered([wide, narrow, third]))
    assert [row for _, row in joined.rows] == [wide, narrow, third]
    assert joined.faults == []
