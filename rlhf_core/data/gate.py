"""The gate: all tables of a recipe pass through it, row after row, in memory that does not grow."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from rlhf_core.data.batches import RowBatch
from rlhf_core.data.checking import CheckedTable, KeepsRows, RowsSeen, TableCheck
from rlhf_core.data.faults import Fault
from rlhf_core.data.leaks import LeakFinder
from rlhf_core.data.row_sets import Flags
from rlhf_core.data.schemas import TableName
from rlhf_core.data.sides import Sides, Splitter
from rlhf_core.data.staging import StagedRows
from rlhf_core.data.token_checks import RecipeTokens, TokenChecks
from rlhf_core.settings.data import TableSettings

_OBJECTS_BETWEEN_COLLECTIONS = 500_000


class Gate:
    """Checks tables one after the other; with a splitter, it keeps what their sides are made of."""

    def __init__(
        self, tokens: RecipeTokens, *, scratch: Path, splitter: Splitter | None = None
    ) -> None:
        self.tokens = tokens
        self.staged: dict[TableName, StagedRows] = {}
        """Rows that may be used, by table; none where nothing is split."""
        self._scratch = scratch
        self._splitter = splitter
        self._leaks = LeakFinder(scratch)

    def check(
        self,
        table: TableName,
        table_settings: TableSettings,
        accounts: Sequence[RowsSeen],
        tokens: TokenChecks,
    ) -> CheckedTable:
        """What became of the rows of one table; `accounts` see all that could be read."""
        check = TableCheck(table, self.tokens.settings, tokens, scratch=self._scratch)
        keepers: list[KeepsRows] = []
        if self._splitter is not None:
            staged = self.staged[table] = StagedRows(self._scratch, table)
            keepers = [staged, _OfTable(self._splitter, table), _OfTable(self._leaks, table)]
        with _fewer_collections():
            checked = check.run(table_settings, accounts=accounts, keepers=keepers)
        if self._splitter is not None:
            self.staged[table].close()
        return checked

    def tell_leaks(self, sides: Sides, checked: Sequence[CheckedTable]) -> dict[str, object]:
        """`checked` knows the training rows that are nearly held-out ones; gives their counts.

        Those that are set aside are taken from `sides`.
        """
        found: dict[TableName, list[tuple[int, Fault]]] = {}
        for table, number, fault in self._leaks.leaks(sides, self.staged):
            found.setdefault(table, []).append((number, fault))
        for of_table in checked:
            leaks = sorted(found.get(of_table.table, ()), key=lambda leak: leak[0])
            of_table.tell(leaks)
            sides.without(of_table.table, of_table.settled.unusable)
        return self._leaks.facts()


@contextmanager
def _fewer_collections() -> Iterator[None]:
    """Rows hold no cycles: to look for some in every batch takes a sixth of the time."""
    before = gc.get_threshold()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


class _RowsOfTables(Protocol):
    def add(self, table: TableName, batch: RowBatch, kept: Flags) -> None: ...


class _OfTable:
    def __init__(self, taker: _RowsOfTables, table: TableName) -> None:
        self._taker = taker
        self._table: TableName = table

    def add(self, batch: RowBatch, kept: Flags) -> None:
        self._taker.add(self._table, batch, kept)


@contextmanager
def scratch_folder(out_dir: Path) -> Iterator[Path]:
    """A folder for what waits on disk, beside what is made; gone afterwards."""
    with TemporaryDirectory(prefix=".scratch-", dir=out_dir) as folder:
        yield Path(folder)
