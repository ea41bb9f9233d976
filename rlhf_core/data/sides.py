"""The tables, each row on its side: train, validation or evaluation."""

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from rlhf_core.data.batches import RowBatch, Texts, mixed
from rlhf_core.data.held_out import HeldOut, held_out
from rlhf_core.data.keys import Keys, KeySpill
from rlhf_core.data.repeats import RepeatFinder
from rlhf_core.data.row_sets import Flags, Numbers, RowSet
from rlhf_core.data.schemas import TableName
from rlhf_core.data.spills import Records, Spill, by_number
from rlhf_core.data.splits import Salt
from rlhf_core.data.staging import StagedRows
from rlhf_core.settings.data import DataSettings

SPLITS: Mapping[TableName, tuple[str, str]] = {
    "demonstrations": ("train", "validation"),
    "preferences": ("train", "validation"),
    "prompts": ("train", "evaluation"),
    "text": ("train", "validation"),
}


_Members = Mapping[str, tuple[TableName, RowSet]]
"""What is split: rows of a table that was read."""

_Splits = dict[str, tuple[TableName, RowSet]]

_MOVE = [("number", "<u4"), ("place", "<u4")]


class Moves:
    """Rows that stand at the place of a later row of their table."""

    def __init__(self, folder: Path, name: str) -> None:
        self.rows = RowSet()
        self._spill = Spill(folder, name, _MOVE, by_number)

    def add(self, numbers: Numbers, places: Numbers) -> None:
        """These rows stand there, or at the latest place that is named."""
        records = np.empty(len(numbers), dtype=_MOVE)
        records["number"], records["place"] = numbers, places
        self.rows.add(numbers)
        self._spill.add(records)

    def parts(self) -> Iterator[Records]:
        """The numbers in ascending order, each with its place."""
        for part in self._spill.parts():
            ordered = part[np.lexsort((part["place"], part["number"]))]
            is_last = np.append(ordered["number"][1:] != ordered["number"][:-1], True)
            yield ordered[is_last]

    def remove(self) -> None:
        """Free the disk."""
        self._spill.remove()


@dataclass(frozen=True, slots=True)
class Side:
    """One split of a table: rows of a table that was read."""

    origin: TableName
    rows: RowSet
    keys: int
    """Distinct keys of the rows."""

    moves: Moves | None = None
    """Rows that do not stand at their own place."""


@dataclass(slots=True)
class Sides:
    """Who stands where; no key of a validation or evaluation side stands on a training side."""

    tables: dict[TableName, dict[str, Side]] = field(default_factory=dict)
    """By table and split; a table that has no rows has no sides."""

    removed: dict[TableName, int] = field(default_factory=dict)
    """Rows of each table that stand on no side, since their key is held out of that table."""

    rules: list[HeldOut] = field(default_factory=list)
    """What was held out, and how."""

    def without(self, table: TableName, rows: RowSet) -> None:
        """The rows of this table stand on no side any more, of whatever table."""
        for splits in self.tables.values():
            for split, side in splits.items():
                if side.origin == table:
                    splits[split] = replace(side, rows=side.rows - rows)


class Splitter:
    """Takes the rows of all tables that may be used, and places those that can be.

    Evaluation prompts are seen by no training stage, validation rows by no training step. A text
    that begins with an evaluation prompt is trained on by nobody. Prompts that are not given are
    those of the demonstrations, and demonstrations that are not given are the best responses of the
    preferences' training side, split once more.
    """

    def __init__(self, folder: Path, given: Sequence[TableName], settings: DataSettings) -> None:
        self._settings = settings
        self._given = given
        self._prompts_of: TableName = "prompts" if "prompts" in given else "demonstrations"
        self._keys = KeySpill(folder, _salts(given))
        self._prompts = RepeatFinder(folder, "distinct-prompts")
        self._best = RepeatFinder(folder, "distinct-best")
        self._moves: dict[TableName, Moves] = {
            "prompts": Moves(folder, "moved-prompts"),
            "demonstrations": Moves(folder, "moved-best"),
        }

    def add(self, table: TableName, batch: RowBatch, kept: Flags) -> None:
        """Some rows of one table, of which those that `kept` says may be used."""
        rows = [row for row, is_kept in zip(batch.rows, kept.tolist(), strict=True) if is_kept]
        numbers = batch.numbers[kept]
        if not rows:
            return
        self._keys.add(table, numbers, [row.key for row in rows])
        if table == "demonstrations" and "prompts" not in self._given:
            self._prompts.add(numbers, batch.prompt_hashes[kept])
        if table == "preferences" and "demonstrations" not in self._given:
            best = Texts([row.best or "" for row in rows]).hashes
            self._best.add(numbers, mixed(mixed(batch.prompt_hashes[kept]) + best))

    def sides(
        self, usable: Mapping[TableName, RowSet], staged: Mapping[TableName, StagedRows]
    ) -> Sides:
        """The side of each row that is usable."""
        sides = Sides()
        rows = {table: usable.get(table, RowSet()) for table in SPLITS}
        demonstrations, preferences, text = (
            rows[table] for table in ("demonstrations", "preferences", "text")
        )
        origin = self._prompts_of
        prompts = _firsts(self._prompts, rows[origin], self._moves["prompts"])
        evaluation = self._held_out(sides, {"prompts": (origin, prompts)}, "evaluation", rows)
        seen_demonstrations = demonstrations - evaluation["demonstrations"]
        seen_preferences = preferences - evaluation["preferences"]
        seen: _Members = {
            "demonstrations": ("demonstrations", seen_demonstrations),
            "preferences": ("preferences", seen_preferences),
        }
        validation = self._held_out(sides, seen, "validation", rows)
        on: dict[TableName, _Splits] = {}
        on["preferences"] = _split("preferences", seen_preferences, validation["preferences"])
        if "demonstrations" in self._given:
            on["demonstrations"] = _split(
                "demonstrations", seen_demonstrations, validation["demonstrations"]
            )
        else:
            trained = on["preferences"]["train"][1]
            best = _firsts(self._best, trained, self._moves["demonstrations"])
            of: _Members = {"demonstrations": ("preferences", best)}
            kept = self._held_out(sides, of, "sft-validation", rows)
            on["demonstrations"] = _split("preferences", best, kept["preferences"])
        on["prompts"] = {
            "train": (origin, prompts - evaluation[origin] - validation[origin]),
            "evaluation": (origin, prompts & evaluation[origin]),
        }
        apart = text
        if len(text):
            asked = _PromptsAsked(staged.get(origin), on["prompts"]["evaluation"][1])
            apart = text - asked.begin(staged["text"])
        kept = self._held_out(sides, {"text": ("text", apart)}, "text-validation", rows)
        on["text"] = _split("text", apart, kept["text"])
        sides.removed = {
            "demonstrations": len(demonstrations - seen_demonstrations),
            "preferences": len(preferences - seen_preferences),
            "prompts": len(prompts) - sum(len(some) for _, some in on["prompts"].values()),
            "text": len(text - apart),
        }
        sides.tables = self._counted(on)
        return sides

    def remove(self) -> None:
        """Free the disk."""
        self._keys.remove()
        self._prompts.remove()
        self._best.remove()
        for moves in self._moves.values():
            moves.remove()

    def _held_out(
        self, sides: Sides, of: _Members, salt: Salt, rows: Mapping[TableName, RowSet]
    ) -> dict[TableName, RowSet]:
        """Of each table, which rows have a key that is held out of the named ones."""

        def members(keys: Keys) -> dict[str, Flags]:
            return {name: keys.of_rows(origin, some) for name, (origin, some) in of.items()}

        settings = self._settings
        share = settings.evaluation_share if salt == "evaluation" else settings.validation_share
        split_by = "text" if salt == "text-validation" else settings.split_by
        rule = held_out(self._keys.parts, members, share, salt=salt, split_by=split_by)
        found = {table: RowSet() for table in rows}
        if rule.counts:
            sides.rules.append(rule)
            for keys in self._keys.parts():
                chosen = rule.among(keys, members(keys))
                for table, some in found.items():
                    some.add(keys.rows_of(table, chosen))
        return found

    def _counted(self, on: Mapping[TableName, _Splits]) -> dict[TableName, dict[str, Side]]:
        counts: Counter[tuple[TableName, str]] = Counter()
        for keys in self._keys.parts():
            for table, splits in on.items():
                for split, (origin, rows) in splits.items():
                    counts[table, split] += int(np.count_nonzero(keys.of_rows(origin, rows)))
        found: dict[TableName, dict[str, Side]] = {}
        for table, splits in on.items():
            moves = self._moves.get(table)
            moved = moves if moves is not None and len(moves.rows) else None
            found[table] = {
                split: Side(origin, rows, counts[table, split], moved)
                for split, (origin, rows) in splits.items()
            }
        return found


class _PromptsAsked:
    """Some prompts, by their hashes, to tell texts that begin with one of them."""

    def __init__(self, staged: StagedRows | None, chosen: RowSet) -> None:
        lengths: set[int] = set()
        hashes = array("Q")
        for batch in () if staged is None else staged.batches(("number", "prompt")):
            numbers = batch.column("number").to_numpy()
            for prompt in batch.column("prompt").filter(pa.array(chosen.has(numbers))).to_pylist():
                lengths.add(len(prompt))
                hashes.append(_hash(prompt))
        self._lengths = sorted(lengths)
        self._hashes = np.unique(np.frombuffer(hashes, dtype=np.uint64))

    def begin(self, staged: StagedRows) -> RowSet:
        """The texts that begin with one of the prompts."""
        found = RowSet()
        for batch in staged.batches(("number", "prompt")) if len(self._hashes) else ():
            texts = batch.column("prompt").to_pylist()
            found.add(batch.column("number").to_numpy()[[self._begins(text) for text in texts]])
        return found

    def _begins(self, text: str) -> bool:
        lengths = self._lengths[: bisect_right(self._lengths, len(text))]
        hashes = np.array([_hash(text[:length]) for length in lengths], dtype=np.uint64)
        return bool(np.isin(hashes, self._hashes).any())


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode())


def _firsts(finder: RepeatFinder, rows: RowSet, moves: Moves) -> RowSet:
    """Those of the rows of whose hash none stands before; each moves to where it stands last."""
    later = RowSet()
    for repeats in finder.repeats(among=rows):
        later.add(repeats.number)
        moves.add(repeats.first, repeats.number)
    return rows - later


def _split(origin: TableName, rows: RowSet, held_out: RowSet) -> _Splits:
    return {"train": (origin, rows - held_out), "validation": (origin, rows & held_out)}


def _salts(given: Sequence[TableName]) -> Mapping[TableName, tuple[Salt, ...]]:
    """Under which salts the keys of each table may have to be placed."""
    return {
        "demonstrations": ("validation",) if "prompts" in given else ("validation", "evaluation"),
        "preferences": ("validation",)
        if "demonstrations" in given
        else ("validation", "sft-validation"),
        "prompts": ("evaluation",),
        "text": ("text-validation",),
    }


def side_facts(sides: Sides) -> dict[str, object]:
    """Rows and keys of each side, and how they were placed, for the report."""
    placed: dict[str, object] = {
        table: {
            split: {"rows": len(side.rows), "keys": side.keys} for split, side in splits.items()
        }
        for table, splits in sides.tables.items()
    }
    return {**placed, "removed": sides.removed}
