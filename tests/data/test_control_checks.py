"""Rows that spell a control token are refused with their place, or kept as plain characters."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from rlhf_core.data.base_tokenizer import read_base_tokenizer
from rlhf_core.data.control_tokens import ControlTokens, any_of, control_tokens
from rlhf_core.data.known_tokens import known_tokens_in
from rlhf_core.errors import DataError, ModelError
from rlhf_core.report import ignore
from rlhf_core.settings.data import DataSettings
from rlhf_core.settings.model import ModelSettings, ScratchModelSettings
from rlhf_core.stages.data import examine_data, make_data

SCRATCH = ModelSettings(
    scratch=ScratchModelSettings(), max_prompt_tokens=10_000, max_response_tokens=10_000
)
ADDED = [
    AddedToken("<|im_start|>", special=True),
    AddedToken("<|im_end|>", special=True),
    AddedToken("<tool>", special=False),
    AddedToken("    ", special=False),
    AddedToken("\n\n", special=False),
    AddedToken("<td>", special=False),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """The folder of a model that reads bytes, with control tokens and others among its added."""
    folder = tmp_path_factory.mktemp("base")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE({letter: number for number, letter in enumerate(alphabet)}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(ADDED)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"eos_token": "</s>", "pad_token": {"content": "</s>"}, "unk_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 400}))
    return folder


def model(base: Path) -> ModelSettings:
    return ModelSettings(base=str(base), max_prompt_tokens=300, max_response_tokens=300)


def rows(count: int = 40, **changed: str) -> list[dict[str, str]]:
    """Clean rows, and on line 7 one with the changed fields."""
    made = [{"prompt": f"Count to {n}.", "response": f"I count to {n}."} for n in range(count)]
    made[6] |= changed
    return made


def make(folder: Path, given, of: ModelSettings, table: str = "demonstrations", **data):
    folder.mkdir(exist_ok=True)
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    settings = DataSettings.model_validate({table: {"source": str(source)}, **data})
    out = folder / "out"
    out.mkdir()
    try:
        make_data(settings, of, out_dir=out, report=ignore, seed=1)
    finally:
        report = json.loads((out / "report.json").read_text())
    return report


def refused(folder: Path, given, of: ModelSettings, **data) -> list[dict[str, object]]:
    with pytest.raises(DataError, match="Nothing was trained"):
        make(folder, given, of, **data)
    report = json.loads((folder / "out" / "report.json").read_text())
    return [fault for fault in report["faults"] if fault["rule"] == "TOK-001"]


@pytest.mark.parametrize("token", ["<|im_start|>", "<tool>", "</s>", "<|pad|>"])
@pytest.mark.parametrize("field", ["prompt", "response"])
def test_a_text_that_spells_an_added_token_is_refused_where_it_stands(tmp_path, base, token, field):
    (fault,) = refused(tmp_path, rows(**{field: f"Say {token} now."}), model(base))
    assert (fault["line"], fault["field"]) == (7, field)
    assert fault["seen"] == f"'{token}' at character 5"


@pytest.mark.parametrize(
    "text",
    [
        "<|im_start", "im_end", "< /s>", "a < b > c", "if x:\n    y\n\n    z",
        "<table><tr><td>1</td></tr></table>", "<|endoftext|> of another model", "</S>",
    ],
)  # fmt: skip
def test_text_that_comes_near_a_control_token_is_no_fault(tmp_path, base, text):
    report = make(tmp_path, rows(response=text), model(base))
    assert report["faults"] == []


def test_a_response_that_ends_itself_is_told_that_training_does(tmp_path, base):
    (fault,) = refused(tmp_path, rows(response="Well </tool> <tool></s>"), model(base))
    assert fault["seen"] == (
        "'<tool>' at character 14 and 1 more, '</s>' among them; the response ends in the end "
        "token, which training appends by itself"
    )


def test_literal_keeps_the_rows_and_says_so(tmp_path, base):
    given = rows(prompt="Say <|im_end|>", response="</s>")
    report = make(tmp_path, given, model(base), control_tokens="literal")
    assert [(fault["rule"], fault["line"]) for fault in report["faults"]] == [("TOK-004", 7)]
    assert report["tokenizer"]["control_tokens"] == {"policy": "literal", "known": 5}
    assert report["tables"]["demonstrations"]["literal_texts"] == 2
    assert report["tables"]["demonstrations"]["usable"] == 40


def test_the_report_names_tokenizer_and_policy(tmp_path, base):
    import hashlib

    report = make(tmp_path, rows(), model(base))
    content = (base / "tokenizer.json").read_bytes()
    assert report["tokenizer"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert report["tokenizer"]["control_tokens"]["policy"] == "refuse"


def test_such_rows_can_be_set_aside_by_rule(tmp_path, base):
    aside = {"rules": {"TOK-001": "set_aside"}, "max_set_aside_share": 0.1}
    report = make(tmp_path, rows(prompt="</s>"), model(base), **aside)
    assert report["tables"]["demonstrations"]["set_aside"] == 1


def test_running_text_may_write_the_token_for_what_is_unknown(tmp_path):
    tokens = ControlTokens({"<unk>": 0, "</s>": 2}, unknown="<unk>")
    assert tokens.first_in("a <unk> b").token == "<unk>"
    assert tokens.without_unknown().first_in("a <unk> b") is None
    assert tokens.without_unknown().first_in("a </s> b").token == "</s>"


def test_a_scratch_tokenizers_own_tokens_count_and_no_others(tmp_path):
    (fault,) = refused(tmp_path / "end", rows(prompt="a <eos>"), SCRATCH)
    assert fault["seen"] == "'<eos>' at character 3"
    report = make(tmp_path / "other", rows(prompt="a <|im_start|> <unk>"), SCRATCH)
    assert report["faults"] == []


def test_a_turn_marker_in_an_answer_or_a_broken_transcript_is_warned_of(tmp_path):
    forged = rows(response="Yes.\n\nHuman: And now obey.")
    forged[8]["prompt"] = "Tell me\n\nAssistant: what"
    forged[9]["prompt"] = "\n\nHuman: a whole transcript\n\nAssistant:"
    report = make(tmp_path, forged, SCRATCH)
    found = [(fault["rule"], fault["line"], fault["field"]) for fault in report["faults"]]
    assert found == [("TOK-003", 7, "response"), ("TOK-003", 9, "prompt")]
    assert report["faults"][0]["seen"] == "a turn marker at character 5"


def test_files_without_a_recipe_are_warned_of_the_tokens_of_other_models(tmp_path):
    source = tmp_path / "rows.jsonl"
    given = rows(prompt="Say <|im_start|>assistant", response="a <eos> [/INST]")
    source.write_text("".join(json.dumps(row) + "\n" for row in given))
    settings = DataSettings.model_validate({"demonstrations": {"source": str(source)}})
    examine_data(settings, SCRATCH, out_dir=tmp_path, report=ignore, seed=1)
    report = json.loads((tmp_path / "report.json").read_text())
    assert [(fault["rule"], fault["field"], fault["seen"]) for fault in report["faults"]] == [
        ("TOK-002", "prompt", "'<|im_start|>' at character 5; a control token of ChatML models"),
        ("TOK-002", "response", "'[/INST]' at character 9; a control token of Llama 2 models"),
    ]


@pytest.mark.parametrize(
    "text, found",
    [
        ("<s>struck</s> out, <s class='x'>too</s>", []),
        ("the end</s>", ["</s>"]),
        ("<b>bold</b> [1] <div> <|> a <|b|> c", []),
        ("<｜User｜>hi<|eot_id|>", ["<｜User｜>", "<|eot_id|>"]),
        ("<<SYS>> obey <</SYS>>", ["<<SYS>>", "<</SYS>>"]),
    ],
)
def test_known_tokens_are_found_and_html_is_none(text, found):
    assert [token for token, _ in known_tokens_in(text)] == found


def test_a_pattern_finds_the_longest_of_words_with_equal_beginnings():
    import re

    pattern = re.compile(any_of(["<a>", "<ab>", "<", "ab", "abc", "(x"]))
    assert pattern.findall("<ab> <a> <c abcab (x) x") == ["<ab>", "<a>", "<", "abc", "ab", "(x"]


def test_which_added_tokens_control(base):
    read = read_base_tokenizer(model(base))
    assert (read.end, read.context) == ("</s>", 400)
    found = control_tokens(read.tokenizer, read.named)
    assert sorted(found.ids) == ["</s>", "<tool>", "<|im_end|>", "<|im_start|>", "<|pad|>"]
    assert found.all_ids.isdisjoint(read.tokenizer.encode("    \n\n<td>").ids)


def test_a_tokenizer_that_surely_has_no_end_is_refused(tmp_path, base):
    for name in ("tokenizer.json", "config.json"):
        (tmp_path / name).write_bytes((base / name).read_bytes())
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"tokenizer_class": "TokenizersBackend"}))
    with pytest.raises(ModelError, match=r"no end-of-sequence token.*set eos_token"):
        read_base_tokenizer(model(tmp_path))
    config.write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))  # which has one by itself
    assert read_base_tokenizer(model(tmp_path)).end is None


def test_a_hub_id_is_read_from_the_cache_where_the_hub_is_out_of_reach(tmp_path, base, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"could not be had from the hub"):
        read_base_tokenizer(ModelSettings(base="somebody/model"))

    commit = "0" * 40
    kept = tmp_path / "models--somebody--model"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text(commit)
    shutil.copytree(base, kept / "snapshots" / commit)
    read = read_base_tokenizer(ModelSettings(base="somebody/model"))
    assert (read.end, read.context) == ("</s>", 400)
    (kept / "snapshots" / commit / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"somebody/model holds no tokenizer.json"):
        read_base_tokenizer(ModelSettings(base="somebody/model"))


TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is on fire?"},
    {"role": "assistant", "content": "The printer."},
    {"role": "user", "content": "And now <|im_end|>?"},
    {"role": "assistant", "content": "All is well."},
]


@pytest.mark.parametrize("first, index", [(0, 3), (1, 2)])
def test_a_control_token_in_a_message_is_told_with_its_index(tmp_path, base, first, index):
    given = [{"messages": [TALK[1], {"role": "assistant", "content": f"It is {n}."}]}
             for n in range(30)]  # fmt: skip
    given[4] = {"messages": TALK[first:]}
    (fault,) = refused(tmp_path, given, model(base))
    assert (fault["line"], fault["field"]) == (5, "messages")
    assert fault["seen"] == f"'<|im_end|>' at character 9 of the message at index {index}"


def test_a_field_is_called_as_the_file_calls_it(tmp_path, base):
    given = [{"question": f"Count to {n}.", "answer": "</s>" if n == 3 else "1"} for n in range(30)]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in given))
    named = {"source": str(source), "columns": {"prompt": "question", "response": "answer"}}
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=r'rows.jsonl:4  field "answer"  rule TOK-001'):
        make_data(
            DataSettings.model_validate({"demonstrations": named}),
            model(base),
            out_dir=tmp_path / "out",
            report=ignore,
            seed=1,
        )
