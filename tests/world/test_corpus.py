"""The world's files: distinct prompts, and the same bytes for the same seed."""

import json
from pathlib import Path

import pytest

from rlhf_core.errors import DataError
from rlhf_core.settings.data import SupportDeskSettings
from rlhf_core.world import corpus
from rlhf_core.world.corpus import write_world
from rlhf_core.world.messages import Facts

SETTINGS = SupportDeskSettings(demonstrations=300, rankings=100, pairs=50, prompts=200)
FILES = ("demonstrations.jsonl", "rankings.jsonl", "pairs.jsonl", "prompts.jsonl")


def written(folder: Path, *, seed: int) -> dict[str, bytes]:
    folder.mkdir()
    write_world(SETTINGS, folder, seed=seed)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, object]]]:
    files = written(tmp_path_factory.mktemp("world") / "first", seed=1)
    return {name: [json.loads(line) for line in files[name].splitlines()] for name in FILES}


def test_files_hold_the_rows_asked_for(rows):
    assert [len(rows[name]) for name in FILES] == [300, 100, 50, 200]
    assert {tuple(row) for row in rows["demonstrations.jsonl"]} == {("prompt", "response")}
    assert {tuple(row) for row in rows["rankings.jsonl"]} == {("prompt", "responses", "ranks")}
    assert {tuple(row) for row in rows["pairs.jsonl"]} == {("prompt", "chosen", "rejected")}
    assert {tuple(row) for row in rows["prompts.jsonl"]} == {("prompt", "response")}
    assert {len(row["responses"]) for row in rows["rankings.jsonl"]} == {4}


def test_no_prompt_is_written_twice(rows):
    prompts = [row["prompt"] for name in FILES for row in rows[name]]
    assert len(prompts) == len(set(prompts)) == 650


def test_a_message_that_was_drawn_before_is_drawn_again(tmp_path, monkeypatch):
    facts = Facts("anna", "lamp", "leak", recent=True, tone="angry")
    monkeypatch.setattr(corpus, "draw_facts", lambda _: facts)
    # these facts have 3 x 3 x 3 wordings x 4 names' places x 6 orders = 648 messages: 330 draws
    # with replacement would repeat about 70
    settings = SupportDeskSettings(demonstrations=10, rankings=10, pairs=10, prompts=300)
    write_world(settings, tmp_path, seed=1)
    prompts = [
        json.loads(line)["prompt"] for name in FILES for line in (tmp_path / name).open("rb")
    ]
    assert len(set(prompts)) == len(prompts) == 330


def test_the_vocabulary_is_small_enough_for_a_word_level_tokenizer(rows):
    texts = [
        text
        for name in FILES
        for row in rows[name]
        for value in row.values()
        for text in (value if isinstance(value, list) else [value])
        if isinstance(text, str)
    ]
    assert 200 < len({word for text in texts for word in text.split(" ")}) <= 300


def test_the_same_seed_writes_the_same_bytes_and_another_writes_others(tmp_path):
    first = written(tmp_path / "first", seed=1)
    again = written(tmp_path / "again", seed=1)
    other = written(tmp_path / "other", seed=2)
    assert first == again
    assert all(first[name] != other[name] for name in FILES)


def test_more_prompts_than_the_world_has_words_for_are_refused(tmp_path):
    settings = SupportDeskSettings(prompts=10_000_000)
    with pytest.raises(DataError, match="lower demonstrations"):
        write_world(settings, tmp_path, seed=1)
