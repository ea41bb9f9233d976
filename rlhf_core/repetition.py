"""How much sampled responses repeat themselves, how varied they are, and whether they end."""

from collections.abc import Sequence
from statistics import fmean


def repetition(
    responses: Sequence[Sequence[int]], *, end_token_ids: Sequence[int]
) -> dict[str, float]:
    """Repeated 4-grams, distinct words and pairs, ended share and mean length of responses as ids.

    The end token is no part of an n-gram, and counts for the length.
    """
    ends = frozenset(end_token_ids)
    bare = [[token for token in row if token not in ends] for row in responses]
    return {
        "repeated_4grams": repeated_share(bare, 4),
        "distinct_1grams": distinct_share(bare, 1),
        "distinct_2grams": distinct_share(bare, 2),
        "ended_share": fmean(bool(row) and row[-1] in ends for row in responses),
        "response_tokens": fmean(len(row) for row in responses),
    }


def repeated_share(rows: Sequence[Sequence[int]], n: int) -> float:
    """Share of n-grams that stood before in the same row; 0 where no row has any.

    A response that goes round in circles comes near 1 (rep-n of arXiv:1908.04319).
    """
    grams = [_ngrams(row, n) for row in rows]
    total = sum(len(row) for row in grams)
    return 1 - sum(len(set(row)) for row in grams) / total if total else 0.0


def distinct_share(rows: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams of all rows by their number (distinct-n of arXiv:1510.03055); else 0."""
    grams = [gram for row in rows for gram in _ngrams(row, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _ngrams(row: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(row[start : start + n]) for start in range(len(row) - n + 1)]
