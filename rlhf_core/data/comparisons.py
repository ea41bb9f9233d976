"""Comparisons of one group, joined to the one ranking that says the same."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from rlhf_core.data.rows import Row
from rlhf_core.data.rules import Fault


class JoinedRows(NamedTuple):
    """Rankings, and the pairs of groups that are none; a fault for each such group."""

    rows: list[Row]
    faults: list[Fault]


def join_rankings(rows: Sequence[Row]) -> JoinedRows:
    """Pairs of one group and prompt become one ranking, in the place of the first of them.

    A group is a ranking when each comparison follows from its ranks and each difference of ranks is
    one of its comparisons; two responses that were never compared must then be tied. Pairs that
    differ in margin or confidence stay pairs.
    """
    joined: list[Row] = []
    faults: list[Fault] = []
    groups: dict[tuple[str, str], list[Row]] = {}
    for place, row in enumerate(rows):
        groups.setdefault((row.group or f"ungrouped {place}", row.prompt), []).append(row)
    for pairs in groups.values():
        if len(pairs) == 1 or len({(pair.margin, pair.confidence) for pair in pairs}) > 1:
            joined.extend(pairs)
            continue
        ranking = _ranking(pairs)
        if ranking is None:
            seen = f"{len(pairs)} comparisons from here on are not those of one ranking"
            faults.append(Fault("PREF-008", pairs[0].file, pairs[0].line, "group", seen))
            joined.extend(pairs)
        else:
            joined.append(ranking)
    return JoinedRows(joined, faults)


def _ranking(pairs: Sequence[Row]) -> Row | None:
    wins = {
        (pair.responses[pair.ranks.index(1)], pair.responses[pair.ranks.index(2)])
        for pair in pairs
        if sorted(pair.ranks) == [1, 2]
    }
    responses = tuple(dict.fromkeys(text for pair in pairs for text in pair.responses))
    beaten_by = {text: sum(worse == text for _, worse in wins) for text in responses}
    ranks = {text: beaten_by[text] + 1 for text in responses}
    implied = {(a, b) for a in responses for b in responses if ranks[a] < ranks[b]}
    if implied != wins or len(wins) < len(pairs):
        return None
    return replace(pairs[0], responses=responses, ranks=tuple(ranks[text] for text in responses))
