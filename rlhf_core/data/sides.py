"""The tables, each row on its side: train, validation or evaluation."""

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from rlhf_core.data.batches import RowBatch, hashes_of, mixed
from rlhf_core.data.held_out import HeldOut, held_out
from rlhf_core.data.keys import Flags, Keys, KeySpill
from rlhf_core.data.repeats import RepeatFinder
from rlhf_core.data.schemas import TableName
from rlhf_core.data.splits import Salt
from rlhf_core.data.staging import StagedRows
from rlhf_core.settings.data import DataSettings

SPLITS: Mapping[TableName, tuple[str, str]] = {
    "demonstrations": ("train", "validation"),
    "preferences": ("train", "validation"),
    "prompts": ("train", "evaluation"),
    "text": ("train", "validation"),
}


Places = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Side:
    """One split of a table: rows of a table that was read, by number."""

    origin: TableName
    rows: Flags
    keys: int
    """Distinct keys of the rows."""

    places: Places | None = None
    """By a row's number the number of the row at whose place it stands; its own where None."""

    @property
    def row_count(self) -> int:
        """How many rows stand on this side."""
        return int(np.count_nonzero(self.rows))


@dataclass(slots=True)
class Sides:
    """Who stands where; no key of a validation or evaluation side stands on a training side."""

    tables: dict[TableName, dict[str, Side]] = field(default_factory=dict)
    """By table and split; a table that has no rows has no sides."""

    removed: dict[TableName, int] = field(default_factory=dict)
    """Rows of each table that stand on no side, since their key is held out of that table."""

    rules: list[HeldOut] = field(default_factory=list)
    """What was held out, and how."""


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
            best = hashes_of([row.best or "" for row in rows])
            self._best.add(numbers, mixed(mixed(batch.prompt_hashes[kept]) + best))

    def sides(
        self, usable: Mapping[TableName, Flags], staged: Mapping[TableName, StagedRows]
    ) -> Sides:
        """The side of each row that is usable, by number."""
        sides = Sides()
        rows = {table: usable.get(table, np.zeros(0, dtype=np.bool_)) for table in SPLITS}
        demonstrations, preferences, text = (
            rows[table] for table in ("demonstrations", "preferences", "text")
        )
        origin = self._prompts_of
        prompts, prompt_places = _firsts(self._prompts, rows[origin])
        evaluation = self._held_out(sides, {"prompts": (origin, prompts)}, "evaluation", rows)
        seen_demonstrations = demonstrations & ~evaluation["demonstrations"]
        seen_preferences = preferences & ~evaluation["preferences"]
        seen: _Members = {
            "demonstrations": ("demonstrations", seen_demonstrations),
            "preferences": ("preferences", seen_preferences),
        }
        validation = self._held_out(sides, seen, "validation", rows)
        on: dict[TableName, dict[str, tuple[TableName, Flags]]] = {}
        best_places: Places | None = None
        on["preferences"] = _split("preferences", seen_preferences, validation["preferences"])
        if "demonstrations" in self._given:
            on["demonstrations"] = _split(
                "demonstrations", seen_demonstrations, validation["demonstrations"]
            )
        else:
            best, best_places = _firsts(self._best, on["preferences"]["train"][1])
            of: _Members = {"demonstrations": ("preferences", best)}
            kept = self._held_out(sides, of, "sft-validation", rows)
            on["demonstrations"] = _split("preferences", best, kept["preferences"])
        on["prompts"] = {
            "train": (origin, prompts & ~evaluation[origin] & ~validation[origin]),
            "evaluation": (origin, prompts & evaluation[origin]),
        }
        apart = text
        if text.any():
            begun = _PromptsAsked(staged.get(origin), on["prompts"]["evaluation"][1])
            apart = text & ~begun.by(staged["text"], len(text))
        kept = self._held_out(sides, {"text": ("text", apart)}, "text-validation", rows)
        on["text"] = _split("text", apart, kept["text"])
        kept_prompts = sum(np.count_nonzero(flags) for _, flags in on["prompts"].values())
        sides.removed = {
            "demonstrations": int(np.count_nonzero(demonstrations & ~seen_demonstrations)),
            "preferences": int(np.count_nonzero(preferences & ~seen_preferences)),
            "prompts": int(np.count_nonzero(prompts) - kept_prompts),
            "text": int(np.count_nonzero(text & ~apart)),
        }
        sides.tables = self._counted(on, {"prompts": prompt_places, "demonstrations": best_places})
        return sides

    def remove(self) -> None:
        """Free the disk."""
        for spill in (self._keys, self._prompts, self._best):
            spill.remove()

    def _held_out(
        self, sides: Sides, of: "_Members", salt: Salt, rows: Mapping[TableName, Flags]
    ) -> dict[TableName, Flags]:
        """Of each table, which rows have a key that is held out of the named ones."""

        def members(keys: Keys) -> dict[str, Flags]:
            return {name: keys.of_rows(origin, flags) for name, (origin, flags) in of.items()}

        settings = self._settings
        share = settings.evaluation_share if salt == "evaluation" else settings.validation_share
        split_by = "text" if salt == "text-validation" else settings.split_by
        rule = held_out(self._keys.parts, members, share, salt=salt, split_by=split_by)
        found = {table: np.zeros(len(flags), dtype=np.bool_) for table, flags in rows.items()}
        if rule.counts:
            sides.rules.append(rule)
            for keys in self._keys.parts():
                chosen = rule.among(keys, members(keys))
                for table, flags in found.items():
                    flags[keys.rows_of(table, chosen)] = True
        return found

    def _counted(
        self,
        sides: Mapping[TableName, Mapping[str, tuple[TableName, Flags]]],
        places: Mapping[TableName, Places | None],
    ) -> dict[TableName, dict[str, Side]]:
        counts: Counter[tuple[TableName, str]] = Counter()
        for keys in self._keys.parts():
            for table, splits in sides.items():
                for split, (origin, flags) in splits.items():
                    counts[table, split] += int(np.count_nonzero(keys.of_rows(origin, flags)))
        return {
            table: {
                split: Side(origin, flags, counts[table, split], places.get(table))
                for split, (origin, flags) in splits.items()
            }
            for table, splits in sides.items()
        }


_Members = Mapping[str, tuple[TableName, Flags]]
"""What is split: rows of a table that was read, by number."""


class _PromptsAsked:
    """Some prompts, by their hashes, to tell texts that begin with one of them."""

    def __init__(self, staged: StagedRows | None, chosen: Flags) -> None:
        lengths: set[int] = set()
        hashes = array("Q")
        for batch in () if staged is None else staged.batches(("number", "prompt")):
            numbers = batch.column("number").to_numpy()
            for prompt in batch.column("prompt").filter(pa.array(chosen[numbers])).to_pylist():
                lengths.add(len(prompt))
                hashes.append(_hash(prompt))
        self._lengths = sorted(lengths)
        self._hashes = np.unique(np.frombuffer(hashes, dtype=np.uint64))

    def by(self, staged: StagedRows, row_count: int) -> Flags:
        """Which texts, by number, begin with one of the prompts."""
        found = np.zeros(row_count, dtype=np.bool_)
        for batch in staged.batches(("number", "prompt")) if len(self._hashes) else ():
            numbers = batch.column("number").to_numpy()
            for number, text in zip(numbers, batch.column("prompt").to_pylist(), strict=True):
                lengths = self._lengths[: bisect_right(self._lengths, len(text))]
                hashes = [_hash(text[:length]) for length in lengths]
                found[number] = np.isin(np.array(hashes, dtype=np.uint64), self._hashes).any()
        return found


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode())


class _Firsts(NamedTuple):
    rows: Flags
    """Those of the rows of whose hash none stands before."""

    places: Places | None
    """Each stands where its hash stands last; None where none comes back."""


def _firsts(finder: RepeatFinder, rows: Flags) -> _Firsts:
    firsts = rows.copy()
    places: Places | None = None
    for repeats in finder.repeats(without=~rows):
        if len(repeats.number):
            firsts[repeats.number] = False
            if places is None:
                places = np.arange(len(rows), dtype=np.uint32)
            np.maximum.at(places, repeats.first, repeats.number)
    return _Firsts(firsts, places)


def _split(origin: TableName, rows: Flags, held_out: Flags) -> dict[str, tuple[TableName, Flags]]:
    return {"train": (origin, rows & ~held_out), "validation": (origin, rows & held_out)}


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
            split: {"rows": side.row_count, "keys": side.keys} for split, side in splits.items()
        }
        for table, splits in sides.tables.items()
    }
    return {**placed, "removed": sides.removed}
