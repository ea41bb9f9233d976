"""The faults of a table: all of them on disk, and of each rule the count and the first ones."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlhf_core.data.faults import SHOWN_PER_RULE, Fault
from rlhf_core.data.row_sets import RowSet
from rlhf_core.data.rules import LENGTH_RULES, Action
from rlhf_core.data.spills import LineSpill

_ROWS_PER_PART = 2**14

_ADDED_AT_ONCE = 2**14

_CUT = ""
"""In place of a rule: the row's prompt was cut to its budget."""


class Found(IntEnum):
    """What found a fault; those of one row are told in this order."""

    READING = 0
    ROW = 1
    OTHER_ROWS = 2
    LENGTH = 3


@dataclass(slots=True)
class Tally:
    """What the faults of a table come to, by rule and by row."""

    counts: Counter[str] = field(default_factory=Counter)
    """Faults of each rule."""

    shown: dict[str, list[Fault]] = field(default_factory=dict)
    """The first faults of each rule."""

    faulty_rows: int = 0
    """Rows that are set aside for another reason than their length."""

    too_long_rows: int = 0
    """Rows that are over a budget and were not cut."""

    prompts_cut: int = 0
    rows_aside: int = 0

    def count(self, fault: Fault) -> None:
        """One more."""
        self.counts[fault.rule] += 1
        shown = self.shown.setdefault(fault.rule, [])
        if len(shown) < SHOWN_PER_RULE:
            shown.append(fault)

    def of(self, rules: Iterator[str]) -> tuple[list[Fault], dict[str, int]]:
        """The first faults of some rules, and how many there are of each."""
        kept = sorted(rule for rule in rules if self.counts[rule])
        return (
            [fault for rule in kept for fault in self.shown[rule]],
            {rule: self.counts[rule] for rule in kept},
        )


class FaultLog:
    """Faults by the number of their row, in whatever order they were found."""

    def __init__(self, folder: Path, name: str) -> None:
        self._lines = LineSpill(folder, f"{name}-faults")

    def add(self, number: int, found: Found, fault: Fault) -> None:
        """One more fault of the row with this number."""
        self._lines.add(number // _ROWS_PER_PART, json.dumps([number, found.value, *fault]))

    def add_cut(self, number: int) -> None:
        """The row's prompt was cut, which is no fault where the row can be used so."""
        fault = Fault(_CUT, "", 0, "", "")
        self._lines.add(number // _ROWS_PER_PART, json.dumps([number, Found.LENGTH.value, *fault]))

    def by_row(self) -> Iterator["RowFaults"]:
        """The faults of each row that has some, row after row."""
        for part in self._lines.parts():
            faults = [json.loads(line) for line in self._lines.lines(part)]
            faults.sort(key=lambda entry: (entry[0], entry[1]))
            for number, entries in groupby(faults, key=lambda entry: int(entry[0])):
                own: list[Fault] = []
                lengths: list[Fault] = []
                for _, found, *fault in entries:
                    (lengths if found == Found.LENGTH else own).append(Fault(*fault))
                yield RowFaults(number, own, lengths)

    def remove(self) -> None:
        """Free the disk."""
        self._lines.remove()


class RowFaults(NamedTuple):
    """The faults of one row; those of its lengths stand only where it can be used but for them."""

    number: int
    own: list[Fault]
    lengths: list[Fault]


@dataclass(frozen=True, slots=True)
class Settled:
    """Which rows cannot be used, and what the faults come to."""

    tally: Tally
    unusable: RowSet
    """Rows with a fault that is more than a warning."""

    failed: RowSet
    """Rows with any fault."""


class FaultFiles(NamedTuple):
    """The faults of a table and the reasons of its rows set aside, a line each."""

    faults: Path
    reasons: Path


def settle(log: FaultLog, actions: Mapping[str, Action], files: FaultFiles) -> Settled:
    """Each fault that stands is counted and written, and the reasons of each row set aside.

    A row that cannot be used for another reason is not told to be too long as well.
    """
    settled = Settled(Tally(), RowSet(), RowSet())
    files.faults.touch()
    files.reasons.touch()
    tell(_standing(log, actions, settled.tally), settled, actions, files)
    return settled


def _standing(
    log: FaultLog, actions: Mapping[str, Action], tally: Tally
) -> Iterator[tuple[int, list[Fault]]]:
    for number, own, lengths in log.by_row():
        is_whole = all(actions[fault.rule] == "warn" for fault in own)
        standing = [*own, *(lengths if is_whole else ())]
        tally.prompts_cut += any(fault.rule == _CUT for fault in standing)
        standing = [fault for fault in standing if fault.rule != _CUT]
        if standing:
            yield number, standing


def tell(
    faults: Iterable[tuple[int, list[Fault]]],
    settled: Settled,
    actions: Mapping[str, Action],
    files: FaultFiles,
) -> None:
    """`settled` and the files know the faults of these further rows."""
    tally = settled.tally
    unusable: list[int] = []
    failed: list[int] = []
    with (
        files.faults.open("a", encoding="utf-8", newline="\n") as faults_file,
        files.reasons.open("a", encoding="utf-8", newline="\n") as reasons_file,
    ):
        for number, standing in faults:
            for fault in standing:
                tally.count(fault)
                faults_file.write(json.dumps(fault) + "\n")
            aside_rules = {f.rule for f in standing if actions[f.rule] == "set_aside"}
            tally.faulty_rows += not aside_rules <= LENGTH_RULES
            tally.too_long_rows += any(fault.rule in LENGTH_RULES for fault in standing)
            failed.append(number)
            if any(actions[fault.rule] != "warn" for fault in standing):
                unusable.append(number)
            if aside_rules:
                tally.rows_aside += 1
                reasons_file.write(json.dumps([number, standing]) + "\n")
            if len(failed) == _ADDED_AT_ONCE:
                _add(settled, failed, unusable)
    _add(settled, failed, unusable)


def _add(settled: Settled, failed: list[int], unusable: list[int]) -> None:
    for rows, numbers in ((settled.failed, failed), (settled.unusable, unusable)):
        rows.add(np.array(numbers, dtype=np.uint32))
        numbers.clear()


def faults_in(path: Path) -> Iterator[Fault]:
    """The faults that `settle` wrote."""
    with path.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield Fault(*json.loads(line))
