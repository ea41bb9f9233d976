"""A run's journal says each thing once, whatever was killed and continued."""

import math
from dataclasses import asdict

import pytest

from rlhf_core.records import write_record
from tasks.journal import read_records
from tasks.run_journal import RunJournal, open_journal
from tasks.shipper import Place, Shipped, read_shipped, shipped_path


def opened(folder) -> RunJournal:
    journal = open_journal(folder)
    journal.open("experiment", "sft", {"stage": "sft"}, None)
    return journal


def points(journal):
    return [
        (placed.record["step"], name, value)
        for placed in read_records(journal.path)
        if placed.record["kind"] == "metrics"
        for name, value in placed.record["values"].items()
    ]


def test_a_resumed_run_says_no_step_twice(tmp_path):
    killed = opened(tmp_path)
    for step in (1, 2, 3):
        killed.report(step, {"loss": 1 / step})
    killed.report(3, {"validation_loss": 0.5})
    killed.close()

    resumed = opened(tmp_path)  # from a checkpoint after step 1
    for step in (2, 3, 4):
        resumed.report(step, {"loss": 1 / step})
    resumed.report(3, {"validation_loss": 0.5, "accuracy": 1.0})

    assert resumed.path == killed.path
    assert points(resumed) == [
        (1, "loss", 1.0),
        (2, "loss", 1 / 2),
        (3, "loss", 1 / 3),
        (3, "validation_loss", 0.5),
        (4, "loss", 1 / 4),
        (3, "accuracy", 1.0),
    ]
    assert resumed.last_step == 4


def test_a_failed_run_goes_on_and_a_finished_one_does_not(tmp_path):
    failed = opened(tmp_path)
    failed.end_run("FAILED", {"failure": "ValueError: no"})
    failed.close()

    finished = opened(tmp_path)
    assert finished.path == failed.path
    finished.end_run("FINISHED", {})
    finished.close()

    assert opened(tmp_path).path != finished.path


def test_a_journal_that_another_process_keeps_is_left_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.run_journal.LOCK_SECONDS", 0.2)
    held = opened(tmp_path)

    assert opened(tmp_path).path != held.path


def test_a_summary_said_again_keeps_the_time_of_the_value_it_repeats(tmp_path):
    journal = opened(tmp_path)
    journal.report(7, {"loss": 0.25, "noise": math.nan})
    ((_, _, reported),) = [
        (r["step"], r["values"], r["time"])
        for r in (placed.record for placed in read_records(journal.path))
        if r["kind"] == "metrics"
    ]

    summary = journal.summary({"loss": 0.25, "noise": math.nan, "accuracy": 0.5})
    journal.say("summary", step=7, points=summary)
    again = journal.summary({"loss": 0.25, "accuracy": 0.5})

    assert [when for name, _, when in summary if name != "accuracy"] == [reported, reported]
    assert again == [point for point in summary if point[0] != "noise"]


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b"{", b'{"server": "s", "offset": "x"}'])
def test_what_was_shipped_is_sent_again_where_its_record_is_damaged(tmp_path, damage):
    journal = tmp_path / "a.journal"
    known = Shipped("s", 70, Place("run", "experiment"))
    write_record(shipped_path(journal), asdict(known))
    assert read_shipped(journal, "s") == known
    assert read_shipped(journal, "t") == Shipped("t")
    sealed = shipped_path(journal).read_bytes()
    for content in (damage, sealed.replace(b"70", b"90")):
        shipped_path(journal).write_bytes(content)
        assert read_shipped(journal, "s") == Shipped("s")


def test_a_setting_that_changed_since_becomes_a_tag(tmp_path):
    journal = opened(tmp_path)
    journal.params({"ppo.kl_coef": "0.05", "seed": "1"})
    journal.params({"ppo.kl_coef": "0.1", "seed": "1"})

    said = [placed.record for placed in read_records(journal.path)][1:]
    assert said == [
        {"kind": "params", "values": {"ppo.kl_coef": "0.05", "seed": "1"}},
        {"kind": "tags", "values": {"changed.ppo.kl_coef": "0.1"}},
    ]
