"""`rlhf lineage`, `verify`, `diff` and `rows` as a user calls them."""

import json
import resource

import pytest

from tests.flows.command import rlhf
from tests.tasks.small_artifacts import flip_bit, make_chain


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    return make_chain(tmp_path_factory.mktemp("commands"))


def test_lineage_writes_text_page_and_events_within_three_seconds(chain, tmp_path):
    page, events = tmp_path / "page.html", tmp_path / "events.jsonl"
    target = chain.made["ppo"].path
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = rlhf("lineage", target, "--html", page, "--openlineage", events, "--json")

    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3  # CPU seconds
    assert json.loads(done.stdout)["target"] == chain.digest("ppo")
    assert page.read_text().startswith("<!doctype html>")
    assert len(events.read_text().splitlines()) == 8


def test_verify_ends_with_the_code_of_storage_where_a_byte_was_changed(tmp_path):
    chain = make_chain(tmp_path, stages=("data", "sft"))
    sound = rlhf("verify", chain.digest("sft"), "--store", chain.store.folder)
    flip_bit(chain.made["sft"].path / "model.safetensors")
    damaged = rlhf("verify", chain.digest("sft"), "--store", chain.store.folder, "--json")

    assert sound.returncode == 0, sound.stderr
    assert sound.stdout.startswith("sound    data ")
    assert damaged.returncode == 4
    assert json.loads(damaged.stdout)["sound"] is False
    assert "model.safetensors: expected SHA-256" in damaged.stderr


def test_rows_goes_both_ways(chain):
    store = ("--store", chain.store.folder)
    origin = rlhf("rows", chain.digest("ppo"), "--row", "demonstrations-train:0", "--json", *store)
    row = json.loads(origin.stdout)
    use = rlhf("rows", chain.digest("ppo"), "--file", row["file"], "--line", row["line"], *store)
    neither = rlhf("rows", chain.digest("ppo"), *store)

    assert "is row 0 of demonstrations-train" in use.stdout
    assert neither.returncode == 2
    assert "Give either --file and --line, or --row." in neither.stderr


def test_diff_says_the_cause_first(chain, tmp_path):
    other = make_chain(tmp_path, "sft.learning_rate=0.125")
    store = ("--store", chain.store.folder)
    done = rlhf("diff", chain.made["sft"].path, other.made["sft"].path, *store)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "because:"
    assert "-> 0.125" in done.stdout
