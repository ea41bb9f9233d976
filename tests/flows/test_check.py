"""`rlhf check` with data files, as a person or a pre-commit hook would call it."""

import gzip
import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from flows.cli import cli
from rlhf_core.errors import RlhfError, UserError

PAIR = {"prompt": "Is 2 even?", "chosen": "Yes, it is.", "rejected": "Who can say?"}
SHOWN = {"prompt": "Say a.", "response": "a"}
HIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    """What a check leaves behind lies below the test's folder."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def write(path: Path, *rows: object) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def check(*arguments: object):
    """Exit code, standard output and the refusal, as the command would end."""
    result = CliRunner().invoke(cli, ["check", *map(str, arguments)])
    error = result.exception
    if isinstance(error, RlhfError):
        return error.exit_code, result.stdout, str(error)
    if error is not None and not isinstance(error, SystemExit):
        raise error
    return result.exit_code, result.stdout, result.stderr


def test_clean_files_of_every_kind_end_with_zero_and_leave_nothing(tmp_path, own_temporary_folder):
    plain = write(tmp_path / "pairs.jsonl", PAIR)
    packed = tmp_path / "shown.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(SHOWN).encode()))
    pq.write_table(pa.table({"prompt": ["Say b."]}), tmp_path / "prompts.parquet")
    text = write(tmp_path / "story.txt", "Once upon a time.")

    code, shown, _ = check(plain, packed, tmp_path / "prompts.parquet", text)

    assert code == 0
    rows = [line.split()[:3] for line in shown.splitlines()[1:5]]
    names = ["demonstrations", "preferences", "prompts", "text"]
    assert rows == [[name, "1", "1"] for name in names]
    assert shown.splitlines()[-1] == "4 of 4 rows can be used; no rule is broken."
    assert list(own_temporary_folder.iterdir()) == []


def test_a_refused_row_ends_with_two_and_is_named_beside_the_totals(tmp_path):
    path = write(tmp_path / "d.jsonl", SHOWN, {"prompt": "Say b.", "response": "\u200b "})
    code, shown, message = check(path)

    assert code == 2
    assert message.splitlines()[:2] == [
        'd.jsonl:2  field "response"  rule TXT-001 blank-text',
        "  seen: 2 characters, all of them blank: U+200B U+0020",
    ]
    assert re.search(r"TXT-001 blank-text +refused +1", shown)
    page = Path(re.search(r"^Page: (.*)$", shown, re.MULTILINE)[1])
    assert page.is_file()
    assert str(page.parent / "report.json") in message
    assert json.loads((page.parent / "report.json").read_text())["usable"] is False


def test_a_warning_is_shown_and_refuses_nothing(tmp_path):
    other_way = {**PAIR, "chosen": PAIR["rejected"], "rejected": PAIR["chosen"]}
    code, shown, _ = check(write(tmp_path / "p.jsonl", PAIR, other_way))
    assert code == 0
    assert 'p.jsonl:2  field "chosen"  rule PREF-005' in shown
    assert re.search(r"PREF-005 contradicting-pairs +warning +1", shown)


def test_the_first_row_does_not_decide_what_a_file_holds(tmp_path):
    broken = {"prompt": "Is 3 even?", "rejected": "no"}
    code, _, message = check(write(tmp_path / "p.jsonl", broken, PAIR, PAIR | {"prompt": "Is 4?"}))
    assert code == 2
    assert message.startswith('p.jsonl:1  field "chosen"  rule SCH-002 missing-key')


def test_a_folder_stands_for_the_shards_in_it_and_repeats_are_found_across_them(tmp_path):
    folder = tmp_path / "shards"
    (folder / ".git").mkdir(parents=True)
    write(folder / "a.jsonl", SHOWN)
    write(folder / "b.jsonl", SHOWN)
    write(folder / ".git" / "c.jsonl", "{")
    write(folder / "README.md", "nothing of ours")
    code, _, message = check(folder, folder / "a.jsonl")
    assert code == 2
    assert "b.jsonl:1" in message
    assert "equal to a.jsonl:1" in message
    assert "c.jsonl" not in message


def test_files_of_one_name_are_told_apart(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first = write(tmp_path / "one" / "train.jsonl", SHOWN)
    second = write(tmp_path / "two" / "train.jsonl", SHOWN | {"prompt": "Say b."}, "{")
    third = write(tmp_path / "train.jsonl", PAIR)
    _, _, message = check(first, second, third)
    assert "train.jsonl#2:2" in message
    assert message.splitlines()[-3:] == [
        f"train.jsonl of demonstrations is {first}",
        f"train.jsonl#2 of demonstrations is {second}",
        f"train.jsonl of preferences is {third}",
    ]
    assert f"train.jsonl of preferences is {third}" in check(first, third)[1]
    assert "train.jsonl of" not in check(first)[1]


def test_columns_table_and_rules_can_be_given(tmp_path):
    path = write(tmp_path / "q.jsonl", {"question": "Say a.", "answer": "a", "note": 1})
    renamed = ["--columns", "prompt=question", "--columns", "response=answer"]
    assert check(path, *renamed)[0] == 0
    assert check(path, "--table", "text", "--columns", "text=answer")[0] == 0

    twice = write(tmp_path / "d.jsonl", SHOWN, SHOWN)
    assert check(twice)[0] == 2
    assert check(twice, "--rule", "DUP-001=warn")[0] == 0
    assert check(twice, "--set", "data.max_set_aside_share=0.5")[0] == 0


def test_columns_that_fit_nothing_are_named_with_what_is_expected(tmp_path):
    code, _, message = check(write(tmp_path / "q.jsonl", {"question": "Say a.", "answer": "a"}))
    assert code == 2
    assert message.startswith('q.jsonl:1  field "(whole line)"  rule SCH-002')
    assert "the row has 'answer', 'question'; expected are (prompt, response)" in message
    assert "`--columns prompt=question --columns response=answer`" in message


def test_a_prompt_beside_what_looks_like_its_answer_is_not_taken_for_a_prompt(tmp_path):
    path = write(tmp_path / "c.jsonl", {"prompt": "Say a.", "completion": "a"})
    code, _, message = check(path)
    assert code == 2
    assert "`--columns response=completion`, or which table it is, `--table prompts`" in message
    assert check(path, "--columns", "response=completion")[0] == 0
    assert check(path, "--table", "prompts")[0] == 0


def test_the_report_is_kept_where_it_is_asked_for(tmp_path, own_temporary_folder):
    folder = tmp_path / "kept" / "here"
    path = write(tmp_path / "d.jsonl", SHOWN, SHOWN, "{")
    code, shown, message = check(path, "--report", folder)

    assert code == 2
    assert f"Page: {folder / 'report.html'}" in shown
    assert f"Full list: {folder / 'report.json'}" in message
    assert sorted(file.name for file in folder.iterdir()) == [
        "report.html",
        "report.json",
        "set-aside.jsonl",
        "sources.json",
    ]
    aside = json.loads((folder / "set-aside.jsonl").read_text())
    assert (aside["line"], aside["rules"]) == (2, ["DUP-001"])
    assert list(own_temporary_folder.iterdir()) == []
    assert check(write(tmp_path / "e.jsonl", SHOWN), "--report", folder)[0] == 0
    assert json.loads((folder / "report.json").read_text())["usable"] is True


def test_json_is_one_document_also_when_something_is_refused(tmp_path):
    code, shown, message = check(write(tmp_path / "d.jsonl", SHOWN, "{"), "--json")
    document = json.loads(shown)
    assert code == 2
    assert document["refusal"] == message
    assert document["files"] == [str(tmp_path / "d.jsonl")]
    assert [fault["line"] for fault in document["report"]["faults"]] == [2]


def empty_folder(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def named_pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe.jsonl")
    return tmp_path / "pipe.jsonl"


def holding(name: str, content: bytes):
    def make(tmp_path: Path) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return make


MISTAKES = {
    "a file that is not there": (lambda folder: folder / "none.jsonl", "there is no such file"),
    "a name that cannot be": (lambda folder: folder / ("a" * 300), "cannot be followed"),
    "an empty folder": (empty_folder, "the folder holds no file"),
    "a pipe that nobody writes to": (named_pipe, "a pipe or a device"),
    "an unknown ending": (holding("a.csv", b"prompt,response\n"), "rename or convert"),
    "no ending": (holding("rows", b"{}"), "ends like no data file"),
    "an empty file": (holding("a.jsonl", b""), "is empty"),
    "blank lines only": (holding("a.jsonl", b"\n \n"), "DATA-001"),
    "bytes": (holding("a.jsonl", bytes(range(128, 256)) * 9), "ENC-001"),
    "bytes named as Parquet": (holding("a.parquet", b"\x00\xff" * 50), "DATA-00"),
    "gzip that is cut": (holding("a.jsonl.gz", gzip.compress(b"{}" * 999, mtime=0)[:30]), "copy"),
    "a recipe of bytes": (holding("a.yaml", b"\xff\xfe\x00"), "not UTF-8"),
    "a recipe that is broken": (holding("a.yaml", b"a: [1"), "a.yaml:"),
    "a recipe that is none": (holding("a.yml", b"- 1"), "expected a recipe"),
    "a folder named as a recipe": (
        lambda folder: (folder / "b.yaml").mkdir() or folder / "b.yaml",
        "Is a directory",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_a_sentence(mistake, tmp_path, own_temporary_folder):
    make, said = MISTAKES[mistake]
    code, _, message = check(make(tmp_path))
    assert code == 2
    assert said in message
    assert not HIDDEN.search(message)
    kept = [path.name for folder in own_temporary_folder.iterdir() for path in folder.iterdir()]
    assert not kept or "report.json" in kept


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "Missing argument"),
        (["--rule", "TXT-001"], "expected ID=ACTION"),
        (["--rule", "NONE-001=warn"], "there is no rule 'NONE-001'"),
        (["--rule", "TXT-001=warn"], "cannot be 'warn'"),
        (["--columns", "prompt"], "expected OURS=YOURS"),
        (["--columns", "promt=question"], "Did you mean 'prompt'"),
        (["--table", "rows"], "'rows' is not one of"),
        (["--set", "data.nothing=1"], "there is no field 'nothing'"),
        (["--set", "data.preferences.limit=1"], "the files are demonstrations, not preferences"),
    ],
)
def test_a_misspelt_option_is_named(arguments, said, tmp_path):
    targets = [write(tmp_path / "d.jsonl", SHOWN)] if arguments else []
    code, _, message = check(*targets, *arguments)
    assert code == 2
    assert said in message


def test_a_recipe_whose_data_is_not_there_says_which_part_names_it(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: x\nlast_stage: sft\nmodel: {scratch: {}}\n"
        f"data: {{demonstrations: {{source: {tmp_path}/none.jsonl}}}}\n"
    )
    code, _, message = check(recipe)
    assert code == 2
    assert f'{tmp_path}/none.jsonl:1  field "(whole file)"  rule DATA-005' in message
    assert "data.demonstrations.source names it" in message


def test_a_recipe_whose_rows_cannot_be_split_has_its_report_all_the_same(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    data = write(tmp_path / "d.jsonl", SHOWN, SHOWN | {"response": "a \u202e"})
    recipe.write_text(
        "name: x\nlast_stage: sft\nmodel: {scratch: {}}\n"
        f"data: {{demonstrations: {{source: {data}}}}}\n"
    )
    code, shown, message = check(recipe)
    assert code == 2
    assert "have the same 'prompt', so they cannot be split" in message
    assert re.search(r"TXT-005 direction-override +warning +1", shown)


def test_a_recipe_stands_alone_and_names_its_own_columns(tmp_path, tiny_recipe):
    data = write(tmp_path / "d.jsonl", SHOWN)
    for arguments in ([tiny_recipe, data], [tiny_recipe, "--table", "text"]):
        code, _, message = check(*arguments)
        assert code == UserError.exit_code
        assert "recipe" in message


HOSTILE = "a\x1b[31m\u202e\u2066b"


def test_nothing_of_a_recipes_name_reaches_the_terminal_raw(tmp_path):
    for content in ("a: [", "- 1", "name: x", "\0"):
        recipe = tmp_path / f"{HOSTILE}.yaml"
        recipe.write_text(content)
        code, shown, message = check(recipe)
        assert code == 2
        assert not HIDDEN.search(shown + message)


def test_nothing_of_the_data_reaches_the_terminal_raw(tmp_path):
    rows = [
        {HOSTILE: 1, "prompt": HOSTILE},
        {"prompt": "a", HOSTILE: 2},
        f'{{"prompt": "b", "{HOSTILE[-1]}\u202e": 1, "b\u202e": 1}}',
        f'{{"prompt": "{HOSTILE[5:]}" "x',
        '{"prompt": "c\\u0000\u202e"}',
        {"prompt": ["\u202e"]},
        {"prompt": "\u202e"},
    ]
    path = write(tmp_path / f"{HOSTILE}.jsonl", *rows)
    code, shown, message = check(path)
    assert code == 2
    assert message.count("rule ") >= 4
    assert not HIDDEN.search(shown + message)
