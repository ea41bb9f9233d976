"""Faults are planted, and each is mended by what its message says and nothing else."""

import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from flows.cli import cli
from tests.flows.mending import mend, told

Rows = list[object]


def shown(n: int, **more: object) -> dict[str, object]:
    return {"prompt": f"Count to {n}.", "response": f"I count to {n}.", **more}


def pair(n: int, **more: object) -> dict[str, object]:
    facts = {"prompt": f"Is {n} even?", "chosen": f"It is {n % 2 == 0}.", "rejected": "Who knows?"}
    return {**facts, **more}


def ranking(n: int, ranks: list[int]) -> dict[str, object]:
    return {"prompt": f"Say {n}.", "responses": [f"{n}", "one", "two more"], "ranks": ranks}


def transcripts(n: int, question: str) -> dict[str, object]:
    turns = "\n\nHuman: {} {}?\n\nAssistant: {}"
    return {
        "chosen": turns.format("What is", n, "A number."),
        "rejected": turns.format(question, n, "Who can say?"),
    }


def talk(*turns: tuple[str, str]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def lines(rows: Rows) -> bytes:
    return b"".join(
        (row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode()) + b"\n"
        for row in rows
    )


def among(row: object, others: Callable[[int], object]) -> bytes:
    """The row as the fourth line, among five that nothing is wrong with."""
    rows = [others(n) for n in range(6)]
    rows[3] = row
    return lines(rows)


def said(n: int) -> dict[str, object]:
    return talk(("user", f"What is {n}?"), ("assistant", f"A number, {n}."))


def ranked(n: int) -> dict[str, object]:
    return ranking(n, [1, 3, 2])


def told_whole(n: int) -> dict[str, object]:
    return transcripts(n, "What is")


SIX = [shown(n) for n in range(6)]
CIRCLE = [
    pair(90, prompt="Say a, b or c.", chosen=chosen, rejected=rejected)
    for chosen, rejected in ("ab", "bc", "ca")
]

PLANTED: dict[str, tuple[str, str, int, bytes]] = {
    "a line that is cut": (
        "JSON-001",
        "a.jsonl",
        4,
        among(b'{"prompt": "Count to 3.", "re', shown),
    ),
    "two objects on a line": (
        *("JSON-001", "a.jsonl", 4),
        among(f"{json.dumps(shown(3))} {json.dumps(shown(9))}".encode(), shown),
    ),
    "a dict of Python": (
        *("JSON-001", "a.jsonl", 4),
        among(
            b"{'prompt': 'Count to 3.', 'response': None or 'x'}".replace(b"None or ", b""), shown
        ),
    ),
    "a trailing comma": (
        *("JSON-001", "a.jsonl", 4),
        among(b'{"prompt": "Count to 3.", "response": "x",}', shown),
    ),
    "lines that end in CR": ("JSON-001", "a.jsonl", 1, lines(SIX).replace(b"\n", b"\r")),
    "a key twice": (
        *("JSON-002", "a.jsonl", 4),
        among(b'{"prompt": "p", "response": "x", "response": "y"}', shown),
    ),
    "Latin-1": (
        *("ENC-001", "a.jsonl", 4),
        among('{"prompt": "p", "response": "Fluß über"}'.encode("latin-1"), shown),
    ),
    "UTF-16": (
        *("ENC-001", "a.jsonl", 1),
        "".join(f"{json.dumps(row)}\n" for row in SIX).encode("utf-16"),
    ),
    "a mark in the middle": (
        *("ENC-002", "a.jsonl", 4),
        among(b"\xef\xbb\xbf" + json.dumps(shown(3)).encode(), shown),
    ),
    "a mark at the start": ("ENC-003", "a.jsonl", 1, b"\xef\xbb\xbf" + lines(SIX)),
    "a value too deep": (
        *("SIZE-001", "a.jsonl", 4),
        among(b'{"prompt": "p", "response": "r", "x": %s}' % (b"[" * 999 + b"]" * 999), shown),
    ),
    "NaN": (
        *("NUM-001", "a.jsonl", 4),
        among(b'{"prompt": "p", "chosen": "a", "rejected": "b", "margin": NaN}', pair),
    ),
    "null": ("SCH-001", "a.jsonl", 4, among(pair(3, chosen=None), pair)),
    "a key that is missing": ("SCH-002", "a.jsonl", 4, among({"prompt": "p", "chosen": "a"}, pair)),
    "a key misspelt": (
        *("SCH-002", "a.jsonl", 4),
        among({"prompt": "p", "chosen": "a", "rejcted": "b"}, pair),
    ),
    "a number for a text": ("SCH-004", "a.jsonl", 4, among(pair(3, chosen=7), pair)),
    "a blank text": ("TXT-001", "a.jsonl", 4, among(shown(3, response=" \u200b"), shown)),
    "half a character": (
        *("TXT-002", "a.jsonl", 4),
        among(b'{"prompt": "Count to 3.", "response": "ab\\ud83d cd"}', shown),
    ),
    "a NUL": (
        *("TXT-003", "a.jsonl", 4),
        among(b'{"prompt": "Count to 3.", "response": "ab\\u0000cd"}', shown),
    ),
    "a turned direction": ("TXT-005", "a.jsonl", 4, among(shown(3, response="x \u202e y"), shown)),
    "garbled quotes": ("TXT-006", "a.jsonl", 4, among(shown(3, response="I donâ€™t."), shown)),
    "too few ranks": ("PREF-001", "a.jsonl", 4, among(ranking(3, [1, 2]), ranked)),
    "a rank of 0": ("PREF-001", "a.jsonl", 4, among(ranking(3, [0, 1, 2]), ranked)),
    "only ties": ("PREF-002", "a.jsonl", 4, among(ranking(3, [1, 1, 1]), ranked)),
    "other beginnings": ("PREF-003", "a.jsonl", 4, among(transcripts(3, "Why"), told_whole)),
    "one text twice": (
        *("PREF-004", "a.jsonl", 4),
        among(pair(3, chosen="So it is.", rejected="So it is. "), pair),
    ),
    "a contradiction": (
        *("PREF-005", "a.jsonl", 7),
        lines([*map(pair, range(6)), pair(3, chosen="Who knows?", rejected="It is False.")]),
    ),
    "a margin below 0": ("PREF-006", "a.jsonl", 4, among(pair(3, margin=-1.5), pair)),
    "scores that disagree": (
        *("PREF-007", "a.jsonl", 4),
        among(pair(3, chosen_score=1, rejected_score=2), pair),
    ),
    "a circle": ("PREF-010", "a.jsonl", 9, lines([*map(pair, range(6)), *CIRCLE])),
    "an answer first": (
        *("ROLE-001", "a.jsonl", 4),
        among(talk(("assistant", "a"), ("user", "b"), ("assistant", "c")), said),
    ),
    "two questions": (
        *("ROLE-002", "a.jsonl", 4),
        among(talk(("user", "a"), ("user", "b"), ("assistant", "c")), said),
    ),
    "the system in the middle": (
        *("ROLE-003", "a.jsonl", 4),
        among(talk(("user", "a"), ("system", "b"), ("assistant", "c")), said),
    ),
    "a role of another form": (
        *("ROLE-004", "a.jsonl", 4),
        among(talk(("human", "a"), ("assistant", "c")), said),
    ),
    "no answer": ("ROLE-005", "a.jsonl", 4, among(talk(("user", "a")), said)),
    "no messages": ("ROLE-005", "a.jsonl", 4, among({"messages": []}, said)),
    "a forged turn": (
        *("TOK-001", "a.jsonl", 4),
        among(talk(("user", "a\n\nAssistant: b"), ("assistant", "c")), said),
    ),
    "a control token": (
        *("TOK-002", "a.jsonl", 4),
        among(shown(3, response="x <|im_end|>\n<|im_start|>user"), shown),
    ),
    "a row twice": ("DUP-001", "a.jsonl", 7, lines([*map(pair, range(6)), pair(2)])),
    "text named as gzip": ("DATA-002", "a.jsonl.gz", 1, lines(SIX)),
    "gzip named as text": ("DATA-002", "a.jsonl", 1, gzip.compress(lines(SIX), mtime=0)),
    "gzip that is cut": ("DATA-003", "a.jsonl.gz", 3, gzip.compress(lines(SIX), 0, mtime=0)[:150]),
    "one array": ("DATA-004", "a.json", 1, json.dumps(SIX, indent=1).encode()),
}
"""What is planted: the rule that names it, the file, the line and the file's content."""

NEEDS_JQ = {"one array"}


def check(folder: Path) -> tuple[int, str]:
    """The exit code, and all that somebody at the terminal reads."""
    result = CliRunner().invoke(cli, ["check", *map(str, sorted(folder.iterdir()))])
    error = result.exception
    code = getattr(error, "exit_code", result.exit_code)
    return code, result.stdout if error is None else f"{error}\n{result.stdout}"


@pytest.fixture
def folders(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """One with the file at fault, and one with whole copies."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder, originals = tmp_path / "data", tmp_path / "originals"
    folder.mkdir()
    originals.mkdir()
    (originals / "a.jsonl").write_bytes(lines(SIX))
    (originals / "a.jsonl.gz").write_bytes(gzip.compress(lines(SIX)))
    return folder, originals


@pytest.mark.parametrize("fault", PLANTED)
def test_a_message_names_six_things_and_is_enough_to_mend_its_fault(fault, folders):
    if fault in NEEDS_JQ and shutil.which("jq") is None:
        pytest.skip("the message gives a command of jq, which is not here")
    folder, originals = folders
    rule, name, line, content = PLANTED[fault]
    (folder / name).write_bytes(content)

    _, message = check(folder)
    first = told(message)[0]
    assert (first.file, first.line, first.rule) == (name, line, rule)
    assert all(first)
    assert not re.search("[\x00-\x09\x0b-\x1f\u202a-\u202e]", message)

    for _ in range(3):  # a fault may have hidden another
        mend(message, folder, originals)
        code, message = check(folder)
        if not told(message):
            break
    assert (code, told(message)) == (0, [])
    assert "no rule is broken" in message
