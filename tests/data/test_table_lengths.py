"""What is too long is named with its count, and what length alone would predict is told."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from rlhf_core.batches import Encoder
from rlhf_core.chat import carry_template
from rlhf_core.data.rows import Row
from rlhf_core.data.schemas import TableName
from rlhf_core.data.table_lengths import TableLengths
from rlhf_core.data.token_checks import RecipeTokens
from rlhf_core.data.token_notes import token_notes
from rlhf_core.pretrained import load_tokenizer
from rlhf_core.settings.data import DataSettings
from rlhf_core.settings.model import ModelSettings, ScratchModelSettings
from tests.tiny_models import STORIES

SOME = {"demonstrations": {"source": "nowhere"}}


def row(line: int, prompt: str, *responses: str, ranks=()) -> Row:
    return Row(prompt, responses, ranks, "made", "", prompt, "rows.jsonl", line)


def letters(folder: Path, context: int | None = None, *, normalizer=None) -> str:
    """A base model whose tokens are bytes, without merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {letter: number for number, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(ids, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "TokenizersBackend", "eos_token": "</s>", "pad_token": "<p>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    config = {} if context is None else {"n_positions": context}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def lengths(base: str, table: TableName, prompt: int = 20, response: int = 12, **data):
    of = ModelSettings(
        base=base, max_prompt_tokens=prompt, max_response_tokens=response, response_prefix=""
    )
    recipe = RecipeTokens(DataSettings.model_validate(SOME | data), of)
    context = recipe.base.context if recipe.base else None
    return TableLengths(table, recipe.settings, of, recipe.counter, context)


def found(check, rows) -> list[tuple[str, int, str, str]]:
    return [(of.rule, of.line, of.field, of.seen) for of in check.check(rows)]


def test_what_is_over_a_budget_is_named_with_its_tokens_and_counted(tmp_path):
    check = lengths(letters(tmp_path), "demonstrations")
    rows = [
        row(1, "p" * 20, "r" * 11),  # and the end token
        row(2, "p" * 21, "r" * 11),
        row(3, "p" * 20, "r" * 12),
        row(4, "é" * 11, "r"),  # two bytes each
    ]
    assert found(check, rows) == [
        ("LEN-001", 2, "prompt", "21 tokens, at most 20 fit"),
        ("LEN-002", 3, "response", "13 tokens, at most 12 fit"),
        ("LEN-001", 4, "prompt", "22 tokens, at most 20 fit"),
    ]
    over = check.facts()["tokens"]["over_budget"]
    assert (over["rows"], over["share"], over["prompts"], over["responses"]) == (3, 0.75, 2, 1)
    assert check.facts()["tokens"]["prompt"]["most"] == 22


def test_a_prompt_that_fills_the_context_leaves_no_answer_room(tmp_path):
    check = lengths(letters(tmp_path, context=24), "demonstrations", prompt=100, response=30)
    rows = [row(1, "p" * 20, "rrr"), row(2, "p" * 20, "r" * 4), row(3, "p" * 23, "r")]
    assert found(check, rows) == [
        ("LEN-002", 2, "response", "5 tokens after 20, and the model's context is 24"),
        ("LEN-001", 3, "prompt", "23 tokens, and the model's context of 24 has no room left"),
    ]
    over = check.facts()["tokens"]["over_budget"]
    assert (over["rows"], over["over_context"]) == (2, 1)


def test_a_prompt_for_generation_needs_room_for_the_longest_answer(tmp_path):
    check = lengths(letters(tmp_path, context=24), "prompts")
    assert found(check, [row(1, "p" * 12), row(2, "p" * 13)]) == [
        ("LEN-005", 2, "prompt", "13 tokens leave 11 of 24"),
    ]


@pytest.mark.parametrize("long_responses, faults", [("keep", ["LEN-003"]), ("drop", [])])
def test_a_pair_that_is_equal_once_cut_is_told_where_cut_rows_are_kept(
    tmp_path, long_responses, faults
):
    check = lengths(letters(tmp_path), "preferences", long_responses=long_responses)
    rows = [
        row(1, "p", "r" * 12 + "a", "r" * 12 + "b", ranks=(1, 2)),
        row(2, "p", "r" * 11 + "ab", "r" * 11 + "ba", ranks=(1, 2)),
        row(3, "p", "r" * 12 + "a", "r" * 12 + "b", ranks=(1, 1)),  # nothing is preferred
    ]
    rules = [rule for rule, line, _, _ in found(check, rows) if rule != "LEN-002"]
    assert rules == faults
    assert check.facts()["tokens"]["over_budget"]["pairs_equal_when_cut"] == 1


def test_a_pair_that_the_tokenizer_makes_one_text_is_set_aside(tmp_path):
    base = letters(tmp_path, normalizer=normalizers.Lowercase())
    rows = [row(1, "p", "Yes", "yes", ranks=(1, 2)), row(2, "p", "Yes", "no", ranks=(1, 2))]
    assert found(lengths(base, "preferences"), rows) == [
        ("LEN-003", 1, "responses", "equal in the first 3 tokens")
    ]


def test_words_are_counted_where_the_tokenizer_is_yet_to_be_made():
    of = ModelSettings(scratch=ScratchModelSettings(), max_prompt_tokens=3, max_response_tokens=3)
    recipe = RecipeTokens(DataSettings.model_validate(SOME), of)
    check = TableLengths("demonstrations", recipe.settings, of, recipe.counter, None)
    assert found(check, [row(1, "a b c", "a b"), row(2, "a b c d", "a b c")]) == [
        ("LEN-001", 2, "prompt", "4 words, at most 3 fit"),
        ("LEN-002", 2, "response", "4 words, at most 3 fit"),
    ]
    assert check.facts()["tokens"]["unit"] == "words"


def made(count: int, longer_wins: int) -> list[Row]:
    """Pairs of which in so many the better response is longer by 4 tokens, else shorter by 2."""
    return [
        row(n, f"p{n}", "r" * (6 if n < longer_wins else 4), "s" * (2 if n < longer_wins else 6),
            ranks=(1, 2))
        for n in range(count)
    ]  # fmt: skip


NAMED = {"rules": {"LEN-004": "warn"}}


def test_what_length_alone_predicts_is_told_with_its_interval(tmp_path):
    check = lengths(letters(tmp_path), "preferences", **NAMED)
    check.check(made(100, 90))
    told = check.facts()["length_baseline"]["made"]
    # Wilson's interval of 90 in 100, from its textbook form
    assert told["longer_wins"] == {"mean": 0.9, "low": 0.8256, "high": 0.9448}
    assert told["shorter_wins"]["mean"] == 0.1
    assert told["chosen_minus_rejected"] == {"mean": 3.4, "median": 4.0}
    assert told["chosen_is_longer_share"] == 0.9
    (fault,) = check.closing()
    assert (fault.rule, fault.file, fault.line) == ("LEN-004", "rows.jsonl", 1)
    assert fault.seen == (
        "of 100 comparisons of 'made' the longer response wins 90.0% (82.6% to 94.5%)"
    )


@pytest.mark.parametrize("count, longer_wins", [(100, 60), (20, 20), (100, 40)])
def test_length_that_predicts_little_or_of_few_rows_is_no_warning(tmp_path, count, longer_wins):
    check = lengths(letters(tmp_path), "preferences", **NAMED)
    check.check(made(count, longer_wins))
    assert check.closing() == []


def test_shorter_responses_that_win_are_a_warning_too(tmp_path):
    check = lengths(letters(tmp_path), "preferences", **NAMED)
    check.check(made(100, 5))
    assert "the shorter response wins 95.0%" in check.closing()[0].seen


def test_length_that_predicts_much_is_a_note_where_the_recipe_does_not_name_the_rule(tmp_path):
    check = lengths(letters(tmp_path), "preferences")
    check.check(made(100, 90))
    assert check.closing() == []
    (note,) = token_notes({"tables": {"preferences": check.facts()}})
    assert note == (
        "preferences: always taking the longer response would be right in 90.0% (82.6% to 94.5%) "
        "of 100 comparisons of made: a reward model will learn length (LEN-004)"
    )


def test_batches_come_to_what_all_rows_at_once_come_to(tmp_path):
    base = letters(tmp_path)
    rows = [replace(one, prompt=one.prompt * (one.line % 9)) for one in made(90, 30)]
    whole, parts = lengths(base, "preferences"), lengths(base, "preferences")
    faults = whole.check(rows)
    assert [fault for n in range(0, 90, 7) for fault in parts.check(rows[n : n + 7])] == faults
    assert faults
    assert parts.facts() == whole.facts()


def test_rows_outside_the_sample_are_counted_exactly_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("rlhf_core.data.table_lengths.SAMPLED_ROWS", 20)
    check = lengths(letters(tmp_path), "demonstrations")
    rows = [row(n, "p" * (21 if n % 10 == 0 else 5), "r") for n in range(1000)]
    assert len(check.check(rows)) == 100
    facts = check.facts()["tokens"]
    assert facts["over_budget"]["prompts"] == 100
    assert 5 <= facts["sampled_rows"] <= 20


@settings(max_examples=60, derandomize=True, deadline=None)
@given(texts=st.lists(st.text(max_size=40), min_size=1, max_size=5))
def test_the_bound_that_spares_reading_a_text_is_never_too_low(texts):
    if not STORIES.is_dir():
        pytest.skip("the folder of public data is not beside this one")
    for of in (
        ModelSettings(base=str(STORIES)),
        ModelSettings(base=str(STORIES), prompt_template="Q: {prompt}\nA:", response_prefix="é "),
        ModelSettings(scratch=ScratchModelSettings(), prompt_template="Q {prompt} A:"),
    ):
        counter = RecipeTokens(DataSettings.model_validate(SOME), of).counter
        prompts = counter.prompts(texts)
        responses = counter.responses(texts)
        for text, prompt, response in zip(texts, prompts, responses, strict=True):
            assert len(prompt) <= counter.prompt_bound.most([text])[0]
            assert len(response) + 1 <= counter.response_bound.most([text])[0]


@pytest.mark.skipif(not STORIES.is_dir(), reason="public data is not beside this folder")
def test_the_gate_counts_what_training_reads():
    of = ModelSettings(base=str(STORIES), prompt_template="Once: {prompt}\nSo:")
    encode = Encoder(load_tokenizer(STORIES), of)
    counter = RecipeTokens(DataSettings.model_validate(SOME), of).counter
    texts = ["Tom had a dog.", "naïve 🎈 text", "a </s> forged <s> one", "<unk>"]
    prompts = encode.prompts(texts)
    responses = encode.responses(texts, texts[::-1])
    assert [list(ids) for ids in counter.prompts(texts)] == prompts
    assert [[*ids, encode.eos_token_id] for ids in counter.responses(texts[::-1])] == responses


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TALK = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: What <|im_end|> is é?\n\nAssistant:"


@pytest.mark.parametrize("given", ["in the configuration", "in a file beside it", "by the recipe"])
def test_conversations_are_counted_by_the_chat_template_as_training_reads_them(tmp_path, given):
    base = letters(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["additional_special_tokens"] = ["<|im_start|>", "<|im_end|>"]
    if given == "in the configuration":
        config["chat_template"] = CHATML
    if given == "in a file beside it":
        (tmp_path / "chat_template.jinja").write_text(CHATML)
    path.write_text(json.dumps(config))
    of = ModelSettings(base=base, chat_template=CHATML if given == "by the recipe" else "auto")
    made = load_tokenizer(base)
    carry_template(made, of)
    encode = Encoder(made, of)
    counter = RecipeTokens(DataSettings.model_validate(SOME), of).counter

    texts = ["plain", TALK, "x" * 30]
    assert counter.end == "<|im_end|>"
    assert [list(ids) for ids in counter.prompts(texts)] == encode.prompts(texts)
    for text, ids in zip(texts, encode.responses(texts, texts), strict=True):
        assert [*counter.responses([text])[0], encode.eos_token_id] == ids
        assert len(ids) <= counter.response_bound.most([text])[0]
        assert len(encode.prompts([text])[0]) <= counter.prompt_bound.most([text])[0]


def test_roles_that_a_template_writes_as_plain_text_count_as_control_tokens(tmp_path):
    written = (
        "{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}"
        "{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
    )
    of = ModelSettings(base=letters(tmp_path), chat_template=written)
    control = RecipeTokens(DataSettings.model_validate(SOME), of).counter.control
    assert control.first_in("so [/INST] Sure").token == "[/INST]"
    assert control.first_in("so [INSTR] </s") is None
    assert control.first_in("</s>").token == "</s>"


def test_rows_over_the_budgets_and_texts_kept_are_a_note_each(tmp_path):
    check = lengths(letters(tmp_path), "demonstrations")
    check.check([row(1, "p" * 21, "r"), row(2, "p", "r")])
    told = {"tables": {"demonstrations": {**check.facts(), "literal_texts": 3}}}
    assert token_notes(told) == [
        "demonstrations: 50.0% of the rows are over the token budgets (1 prompts)",
        "demonstrations: 3 texts spell control tokens and are kept as plain characters",
    ]


def test_half_a_character_which_another_rule_names_stops_no_count(tmp_path):
    check = lengths(letters(tmp_path), "demonstrations")
    assert found(check, [row(1, "\ud800", "r"), row(2, "\ud800" * 21, "r")]) == [
        ("LEN-001", 2, "prompt", "21 tokens, at most 20 fit")
    ]
