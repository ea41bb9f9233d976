"""Prompts on both sides of a split: exact, normalised and nearly equal ones."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_core.data.report_file import read_facts, read_faults
from rlhf_core.data.rows import comparable_key
from rlhf_core.data.shingles import ShingleHasher, jaccard
from rlhf_core.data.signatures import Signatures
from rlhf_core.errors import DataError
from rlhf_core.report import ignore
from rlhf_core.settings.data import DataSettings
from rlhf_core.settings.model import ModelSettings, ScratchModelSettings
from rlhf_core.stages.data import make_data
from rlhf_core.tables import read_preferences, read_prompts

MODEL = ModelSettings(
    scratch=ScratchModelSettings(), max_prompt_tokens=10_000, max_response_tokens=10_000
)
WORDS = [f"word{chr(97 + a)}{chr(97 + b)}" for a in range(20) for b in range(20)]


def make(folder: Path, rows: list[dict[str, object]], **data: object) -> Path:
    """The data stage's folder, of pairs."""
    folder.mkdir()
    path = folder / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out = folder / "out"
    out.mkdir()
    settings = DataSettings.model_validate({"preferences": {"source": str(path)}, **data})
    make_data(settings, MODEL, out_dir=out, report=ignore, seed=1)
    return out


def pair(prompt: str, number: int, **more: object) -> dict[str, object]:
    return {"prompt": prompt, "chosen": f"yes {number}", "rejected": "no", **more}


def long_prompts(count: int, length: int = 80) -> list[str]:
    draw = random.Random(7)
    return [" ".join(draw.choices(WORDS, k=length)) for _ in range(count)]


def leaks(out: Path) -> list[dict[str, object]]:
    return [fault for fault in read_faults(out / "report.json") if fault["rule"][:4] == "LEAK"]


def test_prompts_that_differ_in_case_and_white_space_alone_stand_on_one_side(tmp_path):
    prompts = long_prompts(300, 6)
    rows = [pair(prompt, n) for n, prompt in enumerate(prompts)]
    rows += [
        pair(f" {prompt.upper()}  ".replace(" ", "\t "), n) for n, prompt in enumerate(prompts)
    ]
    out = make(tmp_path / "made", rows)
    sides = [
        {comparable_key(prompt) for prompt in read_preferences(out, split)["prompt"]}
        for split in ("train", "validation")
    ]
    assert sum(map(len, sides)) == 300
    assert all(sides)
    assert leaks(out) == []


def test_a_training_prompt_that_is_a_validation_prompt_but_for_a_word_is_named(tmp_path):
    prompts = long_prompts(200)
    rows = [pair(prompt, n) for n, prompt in enumerate(prompts)]
    rows += [pair(prompt.replace(" ", " other ", 1), n) for n, prompt in enumerate(prompts)]
    out = make(tmp_path / "made", rows)
    found = leaks(out)
    assert found
    for fault in found:
        assert fault["rule"] == "LEAK-002"
        other = int(str(fault["seen"]).rsplit(":", 1)[1])
        assert abs(other - int(str(fault["line"]))) == 200  # the line of the same prompt
    trained = set(read_preferences(out, "train")["line"])
    assert {fault["line"] for fault in found} <= trained
    # All that stand on two sides are found: each has its partner 200 lines away.
    held_out = set(read_preferences(out, "validation")["line"])
    apart = {line for line in trained if {line - 200, line + 200} & held_out}
    assert {fault["line"] for fault in found} == apart


def test_rows_that_leak_can_be_set_aside_and_are_then_trained_on_by_nobody(tmp_path):
    prompts = long_prompts(200)
    rows = [pair(prompt, n) for n, prompt in enumerate(prompts)]
    rows += [pair(prompt.replace(" ", " other ", 1), n) for n, prompt in enumerate(prompts)]
    rules = {"LEAK-002": "set_aside"}
    out = make(tmp_path / "made", rows, rules=rules, max_set_aside_share=0.5)
    aside = [json.loads(line) for line in (out / "set-aside.jsonl").read_text().splitlines()]
    lines = {entry["line"] for entry in aside}
    assert lines == {fault["line"] for fault in leaks(out)}
    assert not lines & set(read_preferences(out, "train")["line"])
    assert aside[0]["prompt"]
    facts = read_facts(out / "report.json")
    assert facts["tables"]["preferences"]["set_aside"] == len(lines) > 0
    assert facts["sides"]["preferences"]["train"]["rows"] == len(read_preferences(out, "train"))
    with pytest.raises(DataError, match="rule LEAK-002 almost-a-validation-prompt"):
        make(tmp_path / "refused", rows, rules=rules)
    assert not list((tmp_path / "refused" / "out").glob("*.parquet"))


def test_equal_prompts_of_two_groups_are_named_where_rows_are_split_by_group(tmp_path):
    prompts = long_prompts(60, 8)
    rows = [
        pair(prompt, 100 * group + n, group=f"group {group}")
        for group in range(20)
        for n, prompt in enumerate(prompts)
    ]
    out = make(tmp_path / "made", rows, split_by="group")
    train = read_preferences(out, "train")
    assert len(train) > 0
    assert {fault["line"] for fault in leaks(out)} == set(train["line"])
    assert str(leaks(out)[0]["seen"]).startswith("100% of its word triples are those of validation")


def test_short_questions_from_one_template_are_questions_of_their_own(tmp_path):
    rows = [
        pair(f"How many apples are {a} and {b} apples?", a) for a in range(20) for b in range(20)
    ]
    rows += [pair(f"What is the capital city of {word}?", 1) for word in WORDS]
    rows += [pair(f"{'A very long story. ' * 30}What is {a} minus 7?", a) for a in range(100)]
    assert leaks(make(tmp_path / "made", rows)) == []


def test_the_embedded_world_has_no_prompt_on_two_sides(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    world = {"demonstrations": 1500, "rankings": 400, "pairs": 60, "prompts": 700}
    settings = DataSettings.model_validate({"world": world})
    make_data(settings, MODEL, out_dir=out, report=ignore, seed=1)
    assert leaks(out) == []
    assert len(read_prompts(out, "evaluation")) > 0


@given(
    st.lists(
        st.lists(st.sampled_from(["red", "blue", "Äpfel", "猫", "x=1", "The"]), max_size=6),
        max_size=6,
    )
)
def test_shingles_are_all_runs_of_three_words_with_blanks_around(texts):
    shingles = ShingleHasher().shingles([" ".join(words) for words in texts])
    runs = []
    for words in texts:
        padded = ["", "", *(word.casefold() for word in words), "", ""]
        runs.append({tuple(padded[at : at + 3]) for at in range(len(padded) - 2)})
    for one in range(len(texts)):
        assert len(shingles.of(one)) == len(runs[one])
        for other in range(len(texts)):
            share = len(runs[one] & runs[other]) / len(runs[one] | runs[other])
            assert jaccard(shingles.of(one), shingles.of(other)) == share


def test_nearly_all_prompts_that_differ_in_one_word_of_eighty_agree_in_a_band(tmp_path):
    prompts = long_prompts(1000)
    changed = [prompt.replace(" ", " other ", 1) for prompt in prompts]
    signatures = Signatures(tmp_path)
    signatures.add(0, np.arange(1000, dtype=np.uint32), prompts)
    signatures.add(1, np.arange(1000, dtype=np.uint32), changed)
    everything = np.concatenate(
        list(
            signatures.pairs(
                lambda table, numbers: np.full(len(numbers), table == 0),
                lambda table, numbers: np.full(len(numbers), table == 1),
            )
        )
    )
    signatures.remove()
    right = everything["number"] == everything["held_number"]
    # J = 79 / 85 = 0.93; in a band of five 0.70, in one of four such 0.99
    assert np.count_nonzero(right) >= 970
    assert np.count_nonzero(~right) < 30


def test_the_report_says_how_keys_were_placed(tmp_path):
    rows = [pair(prompt, n) for n, prompt in enumerate(long_prompts(120, 6))]
    facts = read_facts(make(tmp_path / "made", rows) / "report.json")
    by_hash = {"share": 0.1, "hash": "sha256", "by_count": []}
    trained = facts["sides"]["preferences"]["train"]["keys"]
    assert facts["splits"] == [
        {"salt": "validation", "keys": {"preferences": 120}, **by_hash},
        {"salt": "sft-validation", "keys": {"demonstrations": trained}, **by_hash},
    ]
    assert facts["near_duplicates"]["threshold"] == 0.9
