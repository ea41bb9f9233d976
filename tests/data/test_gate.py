"""The gate's rules that compare rows, beside the same rules over one list of rows."""

import unicodedata
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_core.data import batches, spills
from rlhf_core.data.batches import RowBatch
from rlhf_core.data.comparing import RowComparer
from rlhf_core.data.places import Places
from rlhf_core.data.row_schemas import ROWS, TEXTS
from rlhf_core.data.row_sets import RowSet
from rlhf_core.data.rows import Row
from rlhf_core.data.schemas import check_batch
from rlhf_core.data.texts import is_blank

TEXT = st.text(
    st.sampled_from(["a", "b", " ", "\n", "é", "e", "\u0301", "\u200b", "\x00", "\x7f", "\ud800"]),
    max_size=3,
)


def row(line: int, prompt: str, *responses: str, ranks: tuple[int, ...] = (1, 2)) -> Row:
    return Row(prompt, responses, ranks, "s", "", prompt, "a.jsonl", line)


@st.composite
def rankings(draw: st.DrawFn) -> list[Row]:
    """Rows about few prompts and responses, so that they repeat and contradict each other."""
    rows = []
    for line in range(1, draw(st.integers(1, 12)) + 1):
        count = draw(st.integers(2, 4))
        responses = draw(st.lists(st.sampled_from("xyz"), min_size=count, max_size=count))
        ranks = draw(st.lists(st.integers(1, 3), min_size=count, max_size=count))
        prompt = draw(st.sampled_from(["p", "q"]))
        rows.append(row(line, prompt, *responses, ranks=tuple(ranks)))
    return rows


def found_in_batches(rows: list[Row], size: int, monkeypatch: pytest.MonkeyPatch | None = None):
    """Rule, line and what was seen of every fault, the rows coming in batches of this size."""
    with TemporaryDirectory() as folder:
        places = Places(Path(folder), "preferences")
        comparer = RowComparer(Path(folder), "preferences", places)
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            places.extend(places.packed(one.file, one.line) for one in some)
            comparer.add(RowBatch(range(start, start + len(some)), some))
        found = {(fault.rule, fault.line, fault.seen) for _, fault in comparer.faults()}
        comparer.remove()
        places.remove()
    return found


def wins_of(one: Row) -> set[tuple[str, str]]:
    judged = list(zip(one.ranks, one.responses, strict=True))
    return {(a, b) for rank, a in judged for other, b in judged if rank < other and a != b}


def repeats_and_contradictions(rows: list[Row]) -> set[tuple[str, int, str]]:
    """By looking at every pair of rows."""
    found = {}
    for earlier, later in combinations(rows, 2):
        where = f"{earlier.file}:{earlier.line}"
        if earlier.prompt != later.prompt:
            continue
        content = [sorted(zip(one.ranks, one.responses, strict=True)) for one in (earlier, later)]
        if content[0] == content[1]:
            found.setdefault(("DUP-001", later.line), f"the row is equal to {where}")
        if {(b, a) for a, b in wins_of(earlier)} & wins_of(later):
            found.setdefault(("PREF-005", later.line), f"the row says the opposite of {where}")
    return {(rule, line, seen) for (rule, line), seen in found.items()}


@settings(max_examples=60, deadline=None)
@given(rows=rankings(), size=st.integers(1, 5))
def test_repeats_and_contradictions_are_those_of_looking_at_every_pair_of_rows(rows, size):
    found = found_in_batches(rows, size)
    assert {fault for fault in found if fault[0] != "PREF-010"} == repeats_and_contradictions(rows)


def test_what_waits_on_disk_is_found_as_what_waits_in_memory(monkeypatch):
    rows = [row(line, f"p{line % 700}", f"{line % 3}", "z") for line in range(1, 3001)]
    rows += [row(line, f"p{line % 50}", "z", "1") for line in range(3001, 3101)]
    in_memory = found_in_batches(rows, 4096)
    monkeypatch.setattr(spills, "_BYTES_HELD", 1000)
    monkeypatch.setattr(spills, "_LINES_HELD", 1000)
    assert found_in_batches(rows, 100) == in_memory
    assert len(in_memory) > 900


@pytest.mark.parametrize("size", [1, 2, 10])
def test_a_circle_names_the_rows_that_make_it_however_far_apart_they_stand(size):
    rows = [
        row(1, "p", "a", "b"),
        row(2, "q", "b", "c"),
        row(3, "p", "b", "c"),
        row(4, "p", "b", "d"),
        row(5, "p", "c", "a"),
    ]
    found = found_in_batches(rows, size)
    seen = "the row closes a circle of 3 comparisons with a.jsonl:1, a.jsonl:3"
    assert found == {("PREF-010", 5, seen)}


@settings(max_examples=60, deadline=None)
@given(rows=rankings())
def test_without_the_rows_that_are_named_no_comparisons_run_in_a_circle(rows):
    """Other than two that contradict each other, which are named as such."""
    found = found_in_batches(rows, 4)
    named = {line for rule, line, _ in found if rule == "PREF-010"}
    for prompt in "pq":
        edges: dict[tuple[str, str], set[int]] = {}
        for one in rows:
            for win in wins_of(one) if one.prompt == prompt else ():
                edges.setdefault(win, set()).add(one.line)
        kept = {win for win, lines in edges.items() if win[::-1] not in edges and lines - named}
        responses = {response for win in kept for response in win}
        while True:  # peel off responses that nothing beats
            unbeaten = responses - {worse for _, worse in kept}
            if not unbeaten:
                break
            responses -= unbeaten
            kept = {win for win in kept if win[0] not in unbeaten}
        assert not responses


def verdicts(one: Row) -> set[str]:
    """Which rules a row breaks by itself, by the words of each rule."""
    texts = (one.prompt, *one.responses)
    broken = set()
    if any(is_blank(text) for text in texts):
        broken.add("TXT-001")
    if any(0xD800 <= ord(character) < 0xE000 for text in texts for character in text):
        broken.add("TXT-002")
    if any(character in "\x00\x7f" for text in texts for character in text):
        broken.add("TXT-003")
    if len(set(one.ranks)) == 1:
        broken.add("PREF-002")
    trimmed = [unicodedata.normalize("NFC", text.strip()) for text in one.responses]
    judged = zip(trimmed, one.ranks, strict=True)
    if any(a == b and r != s for (a, r), (b, s) in combinations(judged, 2)):
        broken.add("PREF-004")
    return broken


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.tuples(TEXT, TEXT, TEXT, st.integers(1, 2)), max_size=6))
def test_what_is_certain_at_a_glance_is_what_the_rules_say(texts):
    rows = [
        row(line, prompt, one, other, ranks=(1, rank))
        for line, (prompt, one, other, rank) in enumerate(texts, start=1)
    ]
    found: dict[int, set[str]] = {one.line: set() for one in rows}
    for _, fault in check_batch(RowBatch(range(len(rows)), rows), "preferences"):
        found[fault.line].add(fault.rule)
    assert found == {one.line: verdicts(one) for one in rows}


def test_every_rule_of_the_schemas_is_looked_at():
    checks = [
        check.name
        for schema in (TEXTS, ROWS)
        for c in schema.columns.values()
        for check in c.checks
    ]
    assert sorted(checks) == ["PREF-002", "PREF-004", "TXT-001", "TXT-002", "TXT-003"]


@given(
    one=st.sets(st.integers(0, 300)), other=st.sets(st.integers(0, 300)), asked=st.integers(0, 400)
)
def test_a_set_of_rows_is_a_set(one, other, asked):
    sets = []
    for numbers in (one, other):
        rows = RowSet()
        for number in numbers:
            rows.add(np.array([number], dtype=np.uint32))
        sets.append(rows)
    ours, theirs = sets
    every = np.arange(401, dtype=np.uint32)
    for found, expected in (
        (ours & theirs, one & other),
        (ours | theirs, one | other),
        (ours - theirs, one - other),
    ):
        assert set(every[found.has(every)].tolist()) == expected
        assert len(found) == len(expected)
    assert bool(ours.has(np.array([asked], dtype=np.uint32))[0]) == (asked in one)


def test_contents_are_equal_for_rows_that_say_the_same_alone():
    rows = [
        row(1, "p", "x", "y"),
        row(2, "p", "y", "x", ranks=(2, 1)),
        row(3, "p", "y", "x"),
        row(4, "q", "x", "y"),
        row(5, "p", "x", "y", "y", ranks=(1, 2, 2)),
    ]
    contents = [tuple(content) for content in RowBatch(range(5), rows).contents.tolist()]
    assert contents[0] == contents[1]
    assert len(set(contents)) == 4
    assert batches.MAX_ROWS > 1


def test_long_rankings_that_run_in_a_circle_are_named_by_their_neighbours():
    names = [f"response {number}" for number in range(300)]
    ranks = tuple(range(1, 301))
    rows = [
        row(1, "p", *names, ranks=ranks),
        row(2, "q", *names, ranks=ranks),
        row(3, "p", names[250], "other"),
        row(4, "p", "other", names[249]),
    ]
    found = found_in_batches(rows, 2)
    seen = "the row closes a circle of 3 comparisons with a.jsonl:1, a.jsonl:3"
    assert found == {("PREF-010", 4, seen)}
