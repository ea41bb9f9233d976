"""A table is checked here: rows to train on, rows set aside with their reasons, or a refusal.

Rows are looked at batch by batch. What is remembered of them lies in a scratch folder.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rlhf_core.data.batches import RowBatch
from rlhf_core.data.comparing import RowComparer
from rlhf_core.data.cutting import cut_prompt
from rlhf_core.data.disk_room import TO_EXAMINE, TO_SPLIT
from rlhf_core.data.fault_log import (
    FaultFiles,
    FaultLog,
    Found,
    Settled,
    Tally,
    faults_in,
    settle,
    tell,
)
from rlhf_core.data.faults import Fault, render_faults
from rlhf_core.data.field_places import in_the_file
from rlhf_core.data.numbered import NumberedFault
from rlhf_core.data.reading import ReadBatch, TableReader
from rlhf_core.data.row_sets import Flags, RowSet
from rlhf_core.data.rows import Row, RowReader
from rlhf_core.data.rules import FILE_RULES, LENGTH_RULES, RULES, Action
from rlhf_core.data.schemas import TableName, check_batch
from rlhf_core.data.set_aside import AsideRows
from rlhf_core.data.text_warnings import text_warnings
from rlhf_core.data.token_checks import TokenChecks
from rlhf_core.settings.data import DataSettings, TableSettings


class RowsSeen(Protocol):
    """Whoever wants to see the rows that could be read, batch by batch."""

    def add(self, rows: Sequence[Row]) -> None: ...


class KeepsRows(Protocol):
    """Where rows go that no rule for a single row keeps from being used."""

    def add(self, batch: RowBatch, kept: Flags) -> None: ...


@dataclass(frozen=True, slots=True)
class CheckedTable:
    """What became of the rows of one table."""

    table: TableName
    row_count: int
    settled: Settled
    sources: list[dict[str, object]]
    of_table: list[Fault]
    """The faults of the table as a whole."""

    aside_rows: AsideRows
    files: FaultFiles
    settings: DataSettings
    kept: RowSet
    """Rows that no rule for a single row keeps from being used."""

    @property
    def usable(self) -> RowSet:
        """The rows that can be used."""
        return self.kept - self.settled.unusable

    @property
    def tally(self) -> Tally:
        """What the faults come to."""
        return self.settled.tally

    def faults(self) -> Iterator[Fault]:
        """All faults, row after row, and then those of the table as a whole."""
        yield from faults_in(self.files.faults)
        yield from self.of_table

    def tell(self, faults: Iterable[tuple[int, Fault]]) -> None:
        """Rows of these numbers have faults that were found after all others."""
        actions = rule_actions(self.settings)
        alone = ((number, [fault]) for number, fault in faults)
        tell(alone, self.settled, actions, self.files)

    def facts(self) -> dict[str, Any]:
        """Counts for the report."""
        return {
            "rows": self.row_count,
            "usable": len(self.usable),
            "set_aside": self.tally.rows_aside,
            "prompts_cut": self.tally.prompts_cut,
            "faults_by_rule": dict(sorted(self.tally.counts.items())),
        }

    def refusals(self) -> list[str]:
        """One message for each reason not to train at all; none where the table can be used."""
        return _refusals(self)


class TableCheck:
    """Applies every rule to the rows of one table, and to each fault the action of its rule."""

    def __init__(
        self, table: TableName, settings: DataSettings, tokens: TokenChecks, *, scratch: Path
    ) -> None:
        self._table = table
        self._settings = settings
        self._tokens = tokens
        self._row_readers: Mapping[str, RowReader] = {}
        self._scratch = scratch
        self._actions = rule_actions(settings)
        self._log = FaultLog(scratch, table)
        self._aside_rows = AsideRows(scratch, table)
        self._kept = RowSet()

    def run(
        self,
        table_settings: TableSettings,
        *,
        accounts: Iterable[RowsSeen] = (),
        keepers: Iterable[KeepsRows] = (),
    ) -> CheckedTable:
        """Read the whole table and check it.

        `keepers` get the rows that may be used before it is known which of them repeat or
        contradict others.
        """
        seen, kept_by = list(accounts), list(keepers)
        reader = TableReader(
            table_settings,
            self._table,
            split_by=self._settings.split_by,
            scratch=self._scratch,
            disk_share=TO_SPLIT if kept_by else TO_EXAMINE,
        )
        self._row_readers = reader.row_readers
        comparer = RowComparer(self._scratch, self._table, reader.places)
        for read in reader.batches():
            for account in seen:
                account.add(read.rows.rows)
            comparer.add(read.rows)
            batch, kept = self._check(read)
            for keeper in kept_by:
                keeper.add(batch, kept)
        for number, fault in comparer.faults():
            self._log.add(number, Found.OTHER_ROWS, self._as_in_the_file(fault))
        comparer.remove()
        reader.places.remove()
        return self._settled(reader)

    def _check(self, read: ReadBatch) -> tuple[RowBatch, Flags]:
        """The batch, prompts cut where they had to be, and which of its rows may be used."""
        batch = read.rows
        for number, fault in read.faults:
            self._log.add(number, Found.READING, fault)
        kept = np.ones(len(batch), dtype=np.bool_)
        if not len(batch):
            return batch, kept
        of_texts = self._numbered(
            batch, [*text_warnings(batch, self._table), *self._tokens.texts(batch.rows)]
        )
        self._take(batch, kept, [*check_batch(batch, self._table), *of_texts], Found.ROW)
        whole = [row for row, is_kept in zip(batch.rows, kept.tolist(), strict=True) if is_kept]
        of_lengths = self._numbered(batch, self._tokens.lengths(whole))
        if self._settings.long_prompts == "cut":
            batch, of_lengths = self._with_cut_prompts(batch, of_lengths)
        self._take(batch, kept, of_lengths, Found.LENGTH)
        for place in np.flatnonzero(~kept).tolist():
            self._aside_rows.add(int(batch.numbers[place]), batch.rows[place])
        self._kept.add(batch.numbers[kept])
        return batch, kept

    def _take(
        self,
        batch: RowBatch,
        kept: Flags,
        faults: Iterable[tuple[int, Fault]],
        found: Found,
    ) -> None:
        """Log the faults, and clear `kept` where they keep a row from being used."""
        broken = []
        for number, fault in faults:
            self._log.add(number, found, self._as_in_the_file(fault))
            if self._actions[fault.rule] != "warn":
                broken.append(number)
        kept[np.isin(batch.numbers, broken)] = False

    def _as_in_the_file(self, fault: Fault) -> Fault:
        """The fault with its field called as the file does."""
        reader = self._row_readers.get(fault.file)
        return fault if reader is None else in_the_file(fault, reader.form, reader.columns)

    @staticmethod
    def _numbered(batch: RowBatch, faults: Sequence[Fault]) -> list[NumberedFault]:
        """The faults with the numbers of the batch's rows at their places."""
        if not faults:
            return []
        places = ((row.file, row.line) for row in batch.rows)
        number_at = dict(zip(places, batch.numbers.tolist(), strict=True))
        return [NumberedFault(number_at[fault.file, fault.line], fault) for fault in faults]

    def _with_cut_prompts(
        self, batch: RowBatch, faults: Sequence[NumberedFault]
    ) -> tuple[RowBatch, list[NumberedFault]]:
        """The batch with over-long prompts cut, and the faults that are left."""
        over = {number for number, fault in faults if fault.rule == "LEN-001"}
        if not over:
            return batch, list(faults)
        cut: set[int] = set()
        rows = list(batch.rows)
        for place, number in enumerate(batch.numbers.tolist()):
            prompt = cut_prompt(rows[place].prompt, self._tokens.fits) if number in over else None
            if prompt is not None:
                rows[place] = replace(rows[place], prompt=prompt)
                cut.add(number)
                self._log.add_cut(number)
        left = [
            found for found in faults if found.fault.rule != "LEN-001" or found.number not in cut
        ]
        return RowBatch(batch.numbers.tolist(), rows), left

    def _settled(self, reader: TableReader) -> CheckedTable:
        files = FaultFiles(self._scratch / f"{self._table}-told", self._aside_rows.reasons)
        settled = settle(self._log, self._actions, files)
        self._log.remove()
        closing = self._tokens.closing()
        for fault in closing:
            settled.tally.count(fault)
        return CheckedTable(
            table=self._table,
            row_count=reader.row_count,
            settled=settled,
            sources=reader.sources,
            of_table=closing,
            aside_rows=self._aside_rows,
            files=files,
            settings=self._settings,
            kept=self._kept,
        )


def rule_actions(settings: DataSettings) -> Mapping[str, Action]:
    """What is done by each rule under these settings."""
    by_choice: dict[str, Action] = {
        "drop": "set_aside",
        "cut": "set_aside",  # of which nothing would have been left
        "keep": "warn",
        "refuse": "refuse",
    }
    lengths = {
        "LEN-001": by_choice[settings.long_prompts],
        "LEN-002": by_choice[settings.long_responses],
    }
    return {rule.id: rule.action for rule in RULES.values()} | lengths | settings.rules


def refusal(tables: Sequence[CheckedTable], report_name: str) -> str | None:
    """The whole message for data that cannot be used; None where all of it can."""
    messages = [message for table in tables for message in table.refusals()]
    if not messages:
        return None
    rows = sum(table.row_count for table in tables)
    failed = sum(len(table.settled.failed) for table in tables)
    rules = len({rule for table in tables for rule in table.tally.counts})
    messages.append(
        f"{failed:,} of {rows:,} rows failed in {rules} {'rule' if rules == 1 else 'rules'}. "
        f"Nothing was trained. Full list: {report_name}"
    )
    return "\n".join(messages)


def _refusals(checked: CheckedTable) -> list[str]:
    table, row_count, settings = checked.table, checked.row_count, checked.settings
    tally, actions = checked.tally, rule_actions(settings)
    messages = []
    refused, refused_counts = tally.of(rule for rule in actions if actions[rule] == "refuse")
    if refused:
        messages.append(f"{render_faults(refused, refused_counts)}\n{_other_way(refused_counts)}")
    if tally.faulty_rows > settings.max_set_aside_share * row_count:
        shown, counts = tally.of(
            rule for rule in actions if actions[rule] == "set_aside" and rule not in LENGTH_RULES
        )
        share = tally.faulty_rows / row_count
        messages.append(
            f"{render_faults(shown, counts)}\n"
            f"data.{table}: {share:.2%} of {row_count:,} rows had to be set "
            f"aside ({_in_words(counts)}), more than "
            f"max_set_aside_share={settings.max_set_aside_share:.2%}. Mend the rows, or accept "
            f"it: `--set data.max_set_aside_share={_enough(tally.faulty_rows, row_count)}`."
        )
    over_budget = tally.too_long_rows + tally.prompts_cut
    if over_budget > settings.max_too_long_share * row_count:
        shown, counts = tally.of(iter(LENGTH_RULES))
        messages.append(
            f"{render_faults(shown, counts)}\n"
            f"data.{table}: {over_budget / row_count:.2%} of {row_count:,} rows are over the token "
            f"budgets, more than max_too_long_share={settings.max_too_long_share:.2%}. Raise "
            "model.max_prompt_tokens or model.max_response_tokens, or accept it: "
            f"`--set data.max_too_long_share={_enough(over_budget, row_count)}`."
        )
    elif not refused and not len(checked.usable):
        messages.append(
            f"data.{table}: no row is left (rule DATA-001): {row_count} were read, and all were "
            f"set aside ({_in_words(dict(sorted(tally.counts.items())))}). Mend the rows or raise "
            "the limits named."
        )
    return messages


def _enough(count: int, row_count: int) -> float:
    """The share, rounded up to whole percent."""
    return -(-100 * count // row_count) / 100


def _other_way(rules: Iterable[str]) -> str:
    """How such rows are set aside instead."""
    lengths = {"LEN-001": "data.long_prompts=drop", "LEN-002": "data.long_responses=drop"}
    options = [
        f"--set {lengths[rule]}" if rule in lengths else f"--set data.rules.{rule}=set_aside"
        for rule in rules
        if rule not in FILE_RULES
    ]
    if not options:
        return "A file of which this is true cannot be used at all."
    return f"To train without these rows, set them aside: {' '.join(options)}"


def _in_words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{rule}: {count}" for rule, count in counts.items())
