import gzip
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from rlhf_core.errors import DataError, ModelError
from rlhf_core.report import ignore
from rlhf_core.settings.data import DataSettings, OriginSettings
from rlhf_core.settings.model import ModelSettings, ScratchModelSettings
from rlhf_core.stages.data import make_data
from rlhf_core.tables import (
    TextSplit,
    read_demonstrations,
    read_preferences,
    read_prompts,
    read_text,
)
from tasks.lineage import source_facts

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"

WORDS = ModelSettings(
    scratch=ScratchModelSettings(), max_prompt_tokens=10_000, max_response_tokens=10_000
)

needs_shared_data = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the folder of public data beside the repository is not here"
)


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def demonstrations(count: int) -> list[dict[str, object]]:
    return [{"prompt": f"Count to {n}.", "response": f"I count to {n}."} for n in range(count)]


def pairs(count: int) -> list[dict[str, object]]:
    return [
        {"prompt": f"Is {n} even?", "chosen": f"{n % 2 == 0}", "rejected": "Who can say that?"}
        for n in range(count)
    ]


def make(out_dir: Path, model: ModelSettings = WORDS, **data: object) -> dict[str, float]:
    out_dir.mkdir()
    settings = DataSettings.model_validate(data)
    return make_data(settings, model, out_dir=out_dir, report=ignore, seed=1)


def digest(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


def test_the_tables_hold_every_row_once_and_name_its_place(tmp_path):
    metrics = make(
        tmp_path / "out",
        demonstrations={"source": write(tmp_path / "d.jsonl", demonstrations(300))},
        preferences={"source": write(tmp_path / "p.jsonl", pairs(300))},
    )
    out = tmp_path / "out"
    kept = [read_demonstrations(out, "train"), read_demonstrations(out, "validation")]
    evaluation = read_prompts(out, "evaluation")
    lines = sorted(line for table in [*kept, evaluation] for line in table["line"])
    assert lines == list(range(1, 301))
    assert set(kept[0]["file"]) == {"d.jsonl"}
    row = kept[0].iloc[0]
    assert row["response"] == f"I count to {row['line'] - 1}."

    preferences = read_preferences(out, "validation")
    assert metrics["preferences_validation"] == len(preferences) > 0
    assert all(ranks == [1, 2] for ranks in preferences["ranks"])
    assert metrics["longer_wins_accuracy"] == 0  # every chosen response is the shorter one
    sources = json.loads((out / "sources.json").read_text())
    assert [(source["table"], source["name"], source["rows"]) for source in sources] == [
        ("demonstrations", "d.jsonl", 300),
        ("preferences", "p.jsonl", 300),
    ]
    assert sources[0]["sha256"] == hashlib.sha256((tmp_path / "d.jsonl").read_bytes()).hexdigest()


def test_equal_inputs_in_other_folders_give_equal_bytes(tmp_path):
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        source = write(folder / "d.jsonl", [*demonstrations(200), demonstrations(1)[0]])
        make(folder / "out", demonstrations={"source": source})
    assert digest(tmp_path / "first" / "out") == digest(tmp_path / "second" / "out")


def test_one_bad_row_is_named_and_nothing_is_written_to_train_on(tmp_path):
    rows = demonstrations(100)
    rows[41] |= {"response": " "}
    out = tmp_path / "out"
    with pytest.raises(DataError) as caught:
        make(out, demonstrations={"source": write(tmp_path / "d.jsonl", rows)})
    assert str(caught.value).splitlines() == [
        'd.jsonl:42  field "response"  rule TXT-001 blank-text',
        "  seen: nothing, or nothing but white space",
        "  why : nothing can be learnt from a blank text",
        "  mend: fill the text in or remove the row",
        "To train without these rows, set them aside: --set data.rules.TXT-001=set_aside",
        f"1 of 100 rows failed in 1 rule. Nothing was trained. Full list: {out / 'report.json'}",
    ]
    report = json.loads((out / "report.json").read_text())
    assert [(fault["rule"], fault["line"]) for fault in report["faults"]] == [("TXT-001", 42)]
    assert not list(out.glob("*.parquet"))


def test_a_row_may_be_set_aside_by_rule_and_keeps_its_reason(tmp_path):
    rows = demonstrations(200)
    rows[41] |= {"response": ""}
    path = tmp_path / "d.jsonl"
    write(path, rows)
    path.write_text(path.read_text() + "{cut", encoding="utf-8")
    metrics = make(
        tmp_path / "out",
        demonstrations={"source": str(path)},
        rules={"TXT-001": "set_aside", "JSON-001": "set_aside"},
    )
    assert metrics["set_aside"] == 2
    aside = (tmp_path / "out" / "set-aside.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in aside]
    assert [(row["line"], row["rules"], row.get("prompt")) for row in found] == [
        (42, ["TXT-001"], "Count to 41."),
        (201, ["JSON-001"], None),
    ]
    (reason,) = found[0]["reasons"]
    assert (reason["rule"], reason["field"]) == ("TXT-001", "response")
    assert reason["seen"] == "nothing, or nothing but white space"
    assert reason["mend"] == "fill the text in or remove the row"


def test_more_rows_set_aside_than_the_share_allows_are_a_refusal(tmp_path):
    source = write(tmp_path / "p.jsonl", [*pairs(98), pairs(1)[0], pairs(2)[1]])
    with pytest.raises(DataError) as caught:
        make(tmp_path / "refused", preferences={"source": source})
    assert "p.jsonl:99" in str(caught.value)
    assert "the row is equal to p.jsonl:1" in str(caught.value)
    assert "2.00% of 100 rows had to be set aside (DUP-001: 2)" in str(caught.value)
    assert "--set data.max_set_aside_share=0.02" in str(caught.value)

    metrics = make(tmp_path / "allowed", preferences={"source": source}, max_set_aside_share=0.02)
    assert metrics["set_aside"] == 2


def test_lengths_are_counted_in_tokens_of_the_base_model(tmp_path):
    letters = {letter: number for number, letter in enumerate("abc")}
    tokenizer = Tokenizer(models.WordLevel(letters | {" ": 3, "?": 4}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    base = tmp_path / "base"
    base.mkdir()
    tokenizer.save(str(base / "tokenizer.json"))
    # one token a letter; a response also has its joining space and its end token
    model = ModelSettings(base=str(base), max_prompt_tokens=3, max_response_tokens=4)
    rows = [{"prompt": "abc", "response": response} for response in ("a", "aa", "b", "bb")]
    rows += [{"prompt": "cba", "response": "aaa"}, {"prompt": "abca", "response": "a"}]
    rows += [{"prompt": prompt, "response": "a"} for prompt in ("a", "b", "c", "ab", "bc")]
    data = {"demonstrations": {"source": write(tmp_path / "d.jsonl", rows)}}

    assert make(tmp_path / "out", model, **data)["set_aside"] == 2
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [(fault["line"], fault["seen"]) for fault in report["faults"]] == [
        (5, "5 tokens, at most 4 fit"),
        (6, "4 tokens, at most 3 fit"),
    ]
    with pytest.raises(DataError, match="rule LEN-002 response-too-long"):
        make(tmp_path / "refused", model, **data, long_responses="refuse")
    with pytest.raises(ModelError, match=r"holds no tokenizer\.json"):
        make(tmp_path / "none", ModelSettings(base=str(tmp_path)), **data)


def test_a_table_without_rows_is_refused(tmp_path):
    (tmp_path / "blank.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="rule DATA-001"):
        make(tmp_path / "out", demonstrations={"source": str(tmp_path / "blank.jsonl")})


def test_one_odd_row_at_the_start_does_not_decide_what_a_file_is(tmp_path):
    odd = {"chosen": "a", "rejected": "b"}  # by itself, a pair of transcripts
    source = write(tmp_path / "p.jsonl", [odd, *pairs(50)])
    with pytest.raises(DataError) as caught:
        make(tmp_path / "out", preferences={"source": source})
    message = str(caught.value)
    assert message.startswith('p.jsonl:1  field "prompt"  rule SCH-002')
    assert "1 of 51 rows failed in 1 rule" in message


def test_rows_after_many_broken_lines_are_still_read(tmp_path):
    path = tmp_path / "d.jsonl"
    write(path, demonstrations(60))
    path.write_text("{\n" * 30 + path.read_text(), encoding="utf-8")
    with pytest.raises(DataError, match=r"30 of 90 rows failed in 1 rule"):
        make(tmp_path / "out", demonstrations={"source": str(path)})


@pytest.mark.parametrize("name", ["d.jsonl.gz", "d.jsonl"])
def test_two_files_of_one_name_are_both_read(tmp_path, name):
    sources = []
    for folder, first in (("a", 0), ("b", 60)):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / name
        content = "".join(json.dumps(row) + "\n" for row in demonstrations(120)[first : first + 60])
        path.write_bytes(
            gzip.compress(content.encode()) if name.endswith("gz") else content.encode()
        )
        sources.append(str(path))
    make(tmp_path / "out", demonstrations={"source": sources})
    records = json.loads((tmp_path / "out" / "sources.json").read_text())
    assert [(record["name"], record["rows"]) for record in records] == [
        (name, 60),
        (f"{name}#2", 60),
    ]


@pytest.mark.parametrize(
    "content,said",
    [
        (b"", "rule DATA-001"),
        (b"\n \r\n", "rule DATA-001"),
        (b"[]", "rule SCH-004"),
        (gzip.compress(b"{}", mtime=0), "rule DATA-002"),
        (b'{"prompt": "a", "response": "b"', "rule JSON-001"),
    ],
)
def test_a_file_without_rows_is_refused_in_the_report_as_well(tmp_path, content, said):
    (tmp_path / "d.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=r"d\.jsonl:1  field") as caught:
        make(tmp_path / "out", demonstrations={"source": str(tmp_path / "d.jsonl")})
    assert said in str(caught.value)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["usable"] is False
    assert [fault["rule"] for fault in report["faults"]] == [said.removeprefix("rule ")]


def test_a_mark_and_a_near_key_are_warnings_that_keep_no_row_away(tmp_path):
    rows = [{**row, "soruce": "x"} for row in demonstrations(40)]
    path = Path(write(tmp_path / "d.jsonl", rows))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    metrics = make(tmp_path / "out", demonstrations={"source": str(path)})
    assert metrics["set_aside"] == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["tables"]["demonstrations"]["faults_by_rule"] == {"ENC-003": 1, "SCH-003": 40}
    assert report["tables"]["demonstrations"]["usable"] == 40
    with pytest.raises(DataError, match="rule SCH-003 key-nearly-known"):
        make(tmp_path / "no", demonstrations={"source": str(path)}, rules={"SCH-003": "refuse"})


def test_a_table_of_which_every_row_is_set_aside_is_refused(tmp_path):
    rows = [{"prompt": "Say a.", "response": " "}] * 3
    with pytest.raises(DataError, match=r"no row is left \(rule DATA-001\)"):
        make(
            tmp_path / "out",
            demonstrations={"source": write(tmp_path / "d.jsonl", rows)},
            rules={"TXT-001": "set_aside"},
            max_set_aside_share=1.0,
        )


def test_a_limit_counts_rows_and_not_the_note_before_them(tmp_path):
    path = Path(write(tmp_path / "d.jsonl", demonstrations(60)))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    other = write(tmp_path / "e.jsonl", demonstrations(90)[60:])
    for limit, counts in ((40, [40, 0]), (70, [60, 10]), (None, [60, 30])):
        out = tmp_path / str(limit)
        make(out, demonstrations={"source": [str(path), other], "limit": limit})
        sources = json.loads((out / "sources.json").read_text())
        assert [source["rows"] for source in sources] == counts


def texts_of(out: Path, split: TextSplit) -> list[str]:
    return list(read_text(out, split)["text"])


def test_plain_text_is_kept_whole_split_for_itself_and_changes_no_other_table(tmp_path):
    rows = [{"text": f"  Story {n}. It goes on.\n\nAnd on. "} for n in range(300)]
    demos = {"source": write(tmp_path / "d.jsonl", demonstrations(300))}
    text = {"source": write(tmp_path / "t.jsonl", [*rows, rows[0], rows[0]])}
    make(tmp_path / "without", demonstrations=demos)
    metrics = make(tmp_path / "with", demonstrations=demos, text=text)

    train, validation = (texts_of(tmp_path / "with", split) for split in ("train", "validation"))
    # Text may repeat itself, and equal texts stand on one side; only blanks at the end are lost.
    everything = [row["text"].rstrip() for row in [*rows, rows[0], rows[0]]]
    assert sorted([*train, *validation]) == sorted(everything)
    assert not set(train) & set(validation)
    assert metrics["text_validation"] == len(validation) == pytest.approx(30, abs=15)
    assert texts_of(tmp_path / "without", "train") == []
    for table in ("demonstrations-train", "preferences-train", "prompts-evaluation"):
        files = [tmp_path / out / f"{table}.parquet" for out in ("with", "without")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_text_that_begins_with_an_evaluation_prompt_is_trained_on_by_nobody(tmp_path):
    demos = demonstrations(300)
    make(
        tmp_path / "out",
        demonstrations={"source": write(tmp_path / "d.jsonl", demos)},
        text={
            "source": write(
                tmp_path / "t.jsonl", [{"text": f"{row['prompt']} 1 2"} for row in demos]
            )
        },
    )
    held_out = set(read_prompts(tmp_path / "out", "evaluation")["prompt"])
    kept = [*texts_of(tmp_path / "out", "train"), *texts_of(tmp_path / "out", "validation")]
    assert len(kept) + len(held_out) == 300
    assert held_out.isdisjoint(text.removesuffix(" 1 2") for text in kept)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["sides"]["removed"]["text"] == len(held_out) > 0


def test_a_column_of_another_name_is_text_once_it_is_said(tmp_path):
    source = write(tmp_path / "t.jsonl", [{"story": f"Story {n}."} for n in range(20)])
    with pytest.raises(DataError, match=r'field "text"  rule SCH-002'):
        make(tmp_path / "out", text={"source": source})
    with pytest.raises(DataError, match=r"data\.text\.format: 'pairs' has parts"):
        make(tmp_path / "pairs", text={"source": source, "format": "pairs"})
    make(tmp_path / "named", text={"source": source, "columns": {"text": "story"}})
    assert len(texts_of(tmp_path / "named", "train")) == 18


def test_the_world_writes_texts_where_it_is_asked_to(tmp_path):
    sizes = {"demonstrations": 30, "rankings": 20, "pairs": 10, "prompts": 20}
    make(tmp_path / "without", world=sizes)
    make(tmp_path / "with", world={**sizes, "texts": 20})
    texts = texts_of(tmp_path / "with", "train")
    assert len(texts) == 18
    assert all(text.count("\n") == 1 for text in texts)  # a message, and the reply to it
    others = [f"{table}-train.parquet" for table in ("demonstrations", "preferences", "prompts")]
    for name in others:
        files = [tmp_path / out / name for out in ("with", "without")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_the_world_is_read_like_anybodys_files(tmp_path):
    world = {"demonstrations": 150, "rankings": 120, "pairs": 30, "prompts": 150}
    metrics = make(tmp_path / "out", world=world)
    out = tmp_path / "out"
    assert metrics["demonstrations_train"] + metrics["demonstrations_validation"] == 150
    ranks = [len(row) for row in read_preferences(out, "train")["ranks"]]
    assert set(ranks) == {2, 4}
    assert {path.name for path in (out / "raw").iterdir()} == {
        "demonstrations.jsonl",
        "pairs.jsonl",
        "prompts.jsonl",
        "rankings.jsonl",
    }


def test_the_stage_loads_neither_torch_nor_transformers(tmp_path):
    source = write(tmp_path / "d.jsonl", demonstrations(50))
    code = (
        "import sys; from pathlib import Path\n"
        "from rlhf_core.report import ignore\n"
        "from rlhf_core.settings.data import DataSettings\n"
        "from rlhf_core.settings.model import ModelSettings\n"
        "from rlhf_core.stages.data import make_data\n"
        f"data = DataSettings.model_validate({{'demonstrations': {{'source': {source!r}}}}})\n"
        "model = ModelSettings.model_validate({'scratch': {}})\n"
        f"make_data(data, model, out_dir=Path({str(tmp_path)!r}), report=ignore, seed=1)\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"


@needs_shared_data
@pytest.mark.parametrize(
    "name,rows",
    [
        ("finegrained_qa", 2055),
        ("hh_harmless-base", 1842),
        ("hh_helpful-base", 1856),
        ("hh_helpful-base_transcripts_500", 500),
        ("hh_helpful-rejection-sampled", 2182),
        ("piqa_valid", 1838),
    ],
)
def test_public_pairs_pass_whole(tmp_path, name, rows):
    metrics = make(
        tmp_path / "out", preferences={"source": str(SHARED / "pairs" / f"{name}.jsonl.gz")}
    )
    assert metrics["preferences_train"] + metrics["preferences_validation"] == rows
    assert metrics["set_aside"] == 0


@needs_shared_data
def test_whole_transcripts_say_the_same_as_their_parts(tmp_path):
    folder = SHARED / "pairs"
    whole = {"source": str(folder / "hh_helpful-base_transcripts_500.jsonl.gz")}
    parts = {"source": str(folder / "hh_helpful-base.jsonl.gz")}
    make(tmp_path / "whole", preferences=whole)
    make(tmp_path / "parts", preferences=parts)

    def texts(folder: Path) -> set[tuple[str, ...]]:
        splits = (read_preferences(folder, "train"), read_preferences(folder, "validation"))
        return {
            (prompt, *responses)
            for table in splits
            for prompt, responses in zip(table["prompt"], table["responses"], strict=True)
        }

    assert len(texts(tmp_path / "whole") - texts(tmp_path / "parts")) == 0


@needs_shared_data
def test_no_debate_stands_on_two_sides(tmp_path):
    metrics = make(
        tmp_path / "out",
        preferences={"source": str(SHARED / "pairs" / "ukp_convarg1.jsonl.gz")},
        split_by="group",
        validation_share=0.2,
        max_set_aside_share=0.02,
    )
    train = read_preferences(tmp_path / "out", "train")
    validation = read_preferences(tmp_path / "out", "validation")
    assert not set(train["group"]) & set(validation["group"])
    assert (train["group"].nunique(), validation["group"].nunique()) == (21, 5)
    assert metrics["set_aside"] == 179  # repeats
    demonstrated = read_demonstrations(tmp_path / "out", "train")
    assert not set(demonstrated["prompt"]) & set(validation["prompt"])


@needs_shared_data
def test_a_public_sample_with_blank_responses_is_refused_with_their_count(tmp_path):
    source = str(SHARED / "demonstrations" / "p3_t0_sample.jsonl.gz")
    with pytest.raises(DataError) as caught:
        make(tmp_path / "out", demonstrations={"source": source})
    assert "... and 280 more rows of this rule" in str(caught.value)  # 300, 20 of them shown


def test_long_prompts_are_cut_at_their_paragraphs_where_the_recipe_says_so(tmp_path):
    rows = demonstrations(40)
    rows[3]["prompt"] = "keep these four words\nand lose these five words"
    model = WORDS.model_copy(update={"max_prompt_tokens": 6, "prompt_template": "{prompt}\nTL;DR:"})
    data = {"demonstrations": {"source": write(tmp_path / "d.jsonl", rows)}}
    dropped = make(tmp_path / "dropped", model, **data)
    metrics = make(tmp_path / "cut", model, **data, long_prompts="cut")
    tables = [read_demonstrations(tmp_path / "cut", split) for split in ("train", "validation")]
    prompts = [prompt for table in tables for prompt in table.prompt]
    prompts += list(read_prompts(tmp_path / "cut", "evaluation").prompt)
    assert "keep these four words" in prompts
    assert (dropped["set_aside"], metrics["set_aside"]) == (1, 0)
    assert dropped["too_long"] == metrics["too_long"] == 1
    report = json.loads((tmp_path / "cut" / "report.json").read_text())
    assert report["tables"]["demonstrations"]["prompts_cut"] == 1


def test_long_responses_are_handed_on_whole_where_another_stage_cuts_them(tmp_path):
    model = WORDS.model_copy(update={"max_response_tokens": 4})
    data = {"demonstrations": {"source": write(tmp_path / "d.jsonl", demonstrations(40))}}
    metrics = make(tmp_path / "out", model, **data, long_responses="keep", max_too_long_share=1.0)
    assert metrics["too_long"] == 40  # of five words with the end
    assert metrics["demonstrations_train"] > 0


def test_more_rows_over_the_budgets_than_the_share_allows_are_a_refusal(tmp_path):
    model = WORDS.model_copy(update={"max_response_tokens": 4})
    data = {"demonstrations": {"source": write(tmp_path / "d.jsonl", demonstrations(40))}}
    with pytest.raises(DataError, match=r"100\.00% of 40 rows are over the token budgets.*=1\.0"):
        make(tmp_path / "out", model, **data)


def test_who_wrote_the_demonstrations_is_kept_with_their_file(tmp_path):
    source = write(tmp_path / "d.jsonl", demonstrations(40))
    teacher = {"by": "teacher", "teacher": "text-davinci-003", "licence": "CC BY-NC 4.0"}
    make(tmp_path / "out", demonstrations={"source": source, "origin": teacher})
    (record,) = json.loads((tmp_path / "out" / "sources.json").read_text())
    assert record["written_by"] == teacher
    assert source_facts(record).endswith(
        "40 rows, written by the teacher model text-davinci-003 (CC BY-NC 4.0)"
    )
    make(tmp_path / "people", demonstrations={"source": source, "origin": {"by": "people"}})
    (record,) = json.loads((tmp_path / "people" / "sources.json").read_text())
    assert source_facts(record).endswith("40 rows, written by people")
    make(tmp_path / "unsaid", demonstrations={"source": source})
    assert "written_by" not in json.loads((tmp_path / "unsaid" / "sources.json").read_text())[0]


def test_a_teacher_without_a_name_is_refused():
    with pytest.raises(ValueError, match="name the teacher model"):
        OriginSettings(by="teacher")


@needs_shared_data
def test_long_public_prompts_are_cut_to_the_budget_and_end_as_the_template_does(tmp_path):
    base = str(SHARED / "models" / "stories260K")
    model = ModelSettings(
        base=base,
        prompt_template="{prompt}\n\nAnswer:",
        max_prompt_tokens=128,
        max_response_tokens=512,
    )
    source = {"source": str(SHARED / "demonstrations" / "p3_t0_sample.jsonl.gz"), "limit": 300}
    made = make(
        tmp_path / "out",
        model,
        demonstrations=source,
        long_prompts="cut",
        max_too_long_share=1.0,
        max_set_aside_share=0.2,
    )
    tokenizer = Tokenizer.from_file(f"{base}/tokenizer.json")
    splits = ("train", "validation")
    prompts = [p for split in splits for p in read_demonstrations(tmp_path / "out", split).prompt]
    lengths = [len(tokenizer.encode(f"{prompt}\n\nAnswer:").ids) for prompt in prompts]
    assert made["too_long"] > 100
    assert max(lengths) <= 128
    assert sum(length > 100 for length in lengths) > 30  # no more was taken than had to be
