"""What the rows of a table are like: lengths, sources, ranks, repetitions.

Each account takes rows batch by batch with `add`, says what it has seen with `facts`, and needs no
more memory for many rows than for few. They see every row that could be read, also those that are
set aside later.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from operator import attrgetter
from typing import Protocol

import xxhash

from rlhf_core.data.lengths_seen import DifferencesSeen, LengthsSeen
from rlhf_core.data.rows import Row
from rlhf_core.data.schemas import TableName

MAX_NAMES = 10_000
"""Names counted one by one; rows of any further name count together."""

SHOWN_NAMES = 50

SAMPLE = 2048
"""Keys that are followed through the whole table; with no more than these, counts are exact."""

_LOW_BITS = 2**32 - 1

_SOURCE, _FILE, _GROUP, _RANKS = map(attrgetter, ("source", "file", "group", "ranks"))


class Account(Protocol):
    """What is asked of the rows while they stream by."""

    def add(self, rows: Sequence[Row]) -> None:
        """Take note of a batch."""

    def facts(self) -> dict[str, object]:
        """What was seen so far, as JSON values."""


def accounts_of(table: TableName) -> list[Account]:
    """The accounts kept of a table."""
    if table == "text":
        return [Lengths("text"), Sources()]
    if table == "preferences":
        return [Lengths("prompt"), Sources(), Rankings(), Repetitions()]
    return [Lengths("prompt"), Sources(), Repetitions()]


def facts_of(accounts: Iterable[Account]) -> dict[str, object]:
    """The facts of several accounts of one table, each under its own name."""
    return {name: value for account in accounts for name, value in account.facts().items()}


class Lengths:
    """Characters of prompts and responses, and of the best response minus the worst."""

    def __init__(self, prompt_name: str) -> None:
        self._prompt_name = prompt_name
        self._prompts, self._responses = LengthsSeen(), LengthsSeen()
        self._leads = DifferencesSeen()

    def add(self, rows: Sequence[Row]) -> None:
        self._prompts.add([len(row.prompt) for row in rows])
        self._responses.add([len(response) for row in rows for response in row.responses])
        self._leads.add([lead for row in rows if (lead := _lead(row)) is not None])

    def facts(self) -> dict[str, object]:
        found = {
            f"{self._prompt_name}_characters": self._prompts.facts(),
            "response_characters": self._responses.facts(),
            "chosen_minus_rejected_characters": self._leads.facts(),
        }
        return {name: facts for name, facts in found.items() if facts["count"]}


class Sources:
    """Rows of each source and of each file."""

    def __init__(self) -> None:
        self._sources: Counter[str] = Counter()
        self._files: Counter[str] = Counter()

    def add(self, rows: Sequence[Row]) -> None:
        _count_names(self._sources, map(_SOURCE, rows))
        _count_names(self._files, map(_FILE, rows))

    def facts(self) -> dict[str, object]:
        return {
            "rows_by_source": _most_common(self._sources),
            "rows_by_file": _most_common(self._files),
        }


class Rankings:
    """How many responses a row compares, and how many rows hold ties."""

    def __init__(self) -> None:
        self._sizes: Counter[int] = Counter()
        self._with_ties = 0

    def add(self, rows: Sequence[Row]) -> None:
        for ranks, count in Counter(map(_RANKS, rows)).items():
            self._sizes[min(len(ranks), MAX_NAMES)] += count
            self._with_ties += count if len(set(ranks)) < len(ranks) else 0

    def facts(self) -> dict[str, object]:
        sizes = {str(size): self._sizes[size] for size in sorted(self._sizes)}
        return {
            "rows_by_responses": dict(list(sizes.items())[:SHOWN_NAMES]),
            "rows_with_ties": self._with_ties,
        }


class Repetitions:
    """How often a prompt, a group and a comparison come back, and whether people then agree.

    Of many prompts and groups those of the lowest hashes are followed, which is a random sample of
    them with all of their rows (Bar-Yossef et al. 2002, the k minimum values).
    """

    def __init__(self) -> None:
        self._prompts, self._groups, self._comparisons = _Sample(), _Sample(), _Sample()

    def add(self, rows: Sequence[Row]) -> None:
        for group, count in Counter(map(_GROUP, rows)).items():
            if group:
                self._groups.count(_hash(group), times=count)
        limit = self._prompts.limit
        for prompt, row in zip([_hash(row.prompt) for row in rows], rows, strict=True):
            if limit is not None and prompt > limit:
                continue
            if self._prompts.count(prompt) and row.ranks:
                self._compare(row, prompt)

    def _compare(self, row: Row, prompt: int) -> None:
        judged = [
            (_hash(response), rank) for response, rank in zip(row.responses, row.ranks, strict=True)
        ]
        for (one, one_rank), (other, other_rank) in combinations(judged, 2):
            if one_rank == other_rank or one == other:
                continue
            pair = _hash(f"{min(one, other)} {max(one, other)}")
            key = prompt & ~_LOW_BITS | pair & _LOW_BITS  # in the order of the prompts
            self._comparisons.count(key, first_wins=(one_rank < other_rank) == (one < other))

    def facts(self) -> dict[str, object]:
        prompts, groups = self._prompts.kept, self._groups.kept
        found: dict[str, object] = {"prompts": _repeated(prompts, self._prompts.distinct, "rows")}
        if groups:
            found["groups"] = _repeated(groups, self._groups.distinct, "rows")
        comparisons = self._comparisons.up_to(self._prompts.limit)
        if comparisons:
            is_whole = self._prompts.limit is None and self._comparisons.limit is None
            distinct = len(comparisons) if is_whole else None
            found["comparisons"] = _repeated(comparisons, distinct, "judgements")
            found["agreement"] = _agreement(comparisons)
        return {"repeated": found}


class _Sample:
    """Two counters for each of the keys with the lowest hashes."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[int, int]] = {}
        self.limit: int | None = None
        """No key of a higher hash is followed any more; None while all are."""

    def count(self, key: int, *, first_wins: bool = True, times: int = 1) -> bool:
        """Whether the key is followed; then it has so many more."""
        if self.limit is not None and key > self.limit:
            return False
        first, second = self.kept.get(key, (0, 0))
        self.kept[key] = (first + times, second) if first_wins else (first, second + times)
        if len(self.kept) > 2 * SAMPLE:
            lowest = sorted(self.kept)[:SAMPLE]
            self.kept = {low: self.kept[low] for low in lowest}
            self.limit = lowest[-1]
        return True

    @property
    def distinct(self) -> int:
        """How many keys there are: exact while all are followed, else about two percent off."""
        if self.limit is None:
            return len(self.kept)
        return round((sum(key <= self.limit for key in self.kept) - 1) / (self.limit / 2.0**64))

    def up_to(self, limit: int | None) -> dict[int, tuple[int, int]]:
        """The counters of the keys up to a limit, as far as they are followed."""
        if limit is None:
            return self.kept
        return {key: counts for key, counts in self.kept.items() if key <= limit & ~_LOW_BITS}


def _repeated(
    counters: Mapping[int, tuple[int, int]], distinct: int | None, what: str
) -> dict[str, object]:
    """How many keys there are, and how often one comes."""
    counts = [first + second for first, second in counters.values()]
    found: dict[str, object] = {} if distinct is None else {"distinct": distinct}
    return found | {
        f"{what}_each": round(sum(counts) / len(counts), 3) if counts else 0.0,
        "share_repeated": round(sum(n > 1 for n in counts) / len(counts), 4) if counts else 0.0,
        "most": max(counts, default=0),
        "followed": len(counts),
    }


def _agreement(counters: Mapping[int, tuple[int, int]]) -> float | None:
    """Of two judgements of one comparison, how often both are the same; None without two."""
    alike = pairs = 0
    for won, lost in counters.values():
        pairs += (won + lost) * (won + lost - 1) // 2
        alike += (won * (won - 1) + lost * (lost - 1)) // 2
    return round(alike / pairs, 4) if pairs else None


def _lead(row: Row) -> int | None:
    """Length of the best response minus that of the worst; None where none is better."""
    if row.ranks == (1, 2):
        return len(row.responses[0]) - len(row.responses[1])
    if len(set(row.ranks)) < 2:
        return None
    worst = row.responses[row.ranks.index(max(row.ranks))]
    return len(row.best or "") - len(worst)


def _count_names(counter: Counter[str], names: Iterable[str]) -> None:
    for name, count in Counter(names).items():
        if name in counter or len(counter) < MAX_NAMES:
            counter[name] += count
        else:
            counter["(others)"] += count


def _most_common(counter: Counter[str]) -> Mapping[str, int]:
    """The largest, equal ones by name, and the rest as one."""
    ordered = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    shown = dict(ordered[:SHOWN_NAMES])
    rest = sum(count for _, count in ordered[SHOWN_NAMES:])
    if rest:
        shown["(others)"] = shown.get("(others)", 0) + rest
    return shown


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))
