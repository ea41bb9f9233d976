"""The rules that look at a row beside all the others of its table."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rlhf_core.data.batches import RowBatch
from rlhf_core.data.contradictions import Circle, ComparisonFinder
from rlhf_core.data.faults import Fault
from rlhf_core.data.numbered import NumberedFault
from rlhf_core.data.places import Places
from rlhf_core.data.repeats import RepeatFinder
from rlhf_core.data.rows import Row
from rlhf_core.data.schemas import TableName, check_batch

_NAMED = 5
"""Other rows of a circle that a message names."""


class RowComparer:
    """Finds rows that repeat or contradict others, in whatever batch or file those stand."""

    def __init__(self, folder: Path, table: TableName, places: Places) -> None:
        self._table = table
        self._places = places
        self._repeats = RepeatFinder(folder, f"{table}-contents")
        self._comparisons = ComparisonFinder(folder, table)

    def add(self, batch: RowBatch) -> None:
        """Look at these rows too."""
        if self._table == "text":  # which may repeat itself
            return
        hashes = batch.prompt_hashes if self._table == "prompts" else batch.contents
        self._repeats.add(batch.numbers, hashes)
        if self._table == "preferences":
            self._comparisons.add(batch)

    def faults(self) -> Iterator[NumberedFault]:
        """The faults in no particular order, but those of one row as they are told."""
        for found in self._comparisons.findings():
            if isinstance(found, Circle):
                yield self._circle(found)
            else:
                seen = f"the row says the opposite of {self._places[found.earlier]}"
                yield self._fault("PREF-005", found.number, "chosen", seen)
        for repeats in self._repeats.repeats():
            for number, first in zip(repeats.number.tolist(), repeats.first.tolist(), strict=True):
                seen = f"the row is equal to {self._places[first]}"
                yield self._fault("DUP-001", number, "prompt", seen)

    def remove(self) -> None:
        """Free the disk."""
        self._repeats.remove()
        self._comparisons.remove()

    def _circle(self, circle: Circle) -> NumberedFault:
        others = list(dict.fromkeys(circle.others))
        named = ", ".join(str(self._places[number]) for number in others[:_NAMED])
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        seen = f"the row closes a circle of {len(circle.others) + 1} comparisons with {named}{more}"
        return self._fault("PREF-010", circle.number, "chosen", seen)

    def _fault(self, rule: str, number: int, field: str, seen: str) -> NumberedFault:
        place = self._places[number]
        return NumberedFault(number, Fault(rule, place.file, place.line, field, seen))


def check_rows(rows: Sequence[Row], table: TableName) -> list[Fault]:
    """All faults of the rows of a small table, in the order of the rows."""
    batch = RowBatch(range(len(rows)), rows)
    with TemporaryDirectory() as folder:
        places = Places(Path(folder), table)
        places.extend(places.packed(row.file, row.line) for row in rows)
        comparer = RowComparer(Path(folder), table, places)
        comparer.add(batch)
        faults = [*check_batch(batch, table), *comparer.faults()]
        places.remove()
    return [fault for _, fault in sorted(faults, key=lambda found: found[0])]
