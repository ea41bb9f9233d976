"""What is measured on responses, as functions of plain numbers."""

import math
from collections.abc import Sequence

SIMILAR_LENGTH = 0.1
"""Two lengths are similar when they differ by at most this share of the longer one."""


def win_points(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """For each pair 1 where ours is graded higher, 0.5 where both are the same, else 0."""
    return [
        1.0 if mine > other else 0.5 if mine == other else 0.0
        for mine, other in zip(ours, theirs, strict=True)
    ]


def of_similar_length(ours: Sequence[int], theirs: Sequence[int]) -> list[bool]:
    """For each pair whether |ours - theirs| <= 0.1 * max(ours, theirs)."""
    return [
        abs(mine - other) <= SIMILAR_LENGTH * max(mine, other)
        for mine, other in zip(ours, theirs, strict=True)
    ]


def distinct_ngram_share(responses: Sequence[Sequence[int]], n: int) -> float | None:
    """Different n-grams over all n-grams of the responses together (distinct-n, arXiv:1510.03055).

    None where no response is n tokens long. The share falls as responses are added: compare only
    sets of the same size.
    """
    ngrams = [tuple(row[i : i + n]) for row in responses for i in range(len(row) - n + 1)]
    return len(set(ngrams)) / len(ngrams) if ngrams else None


def distinct_share(responses: Sequence[Sequence[int]]) -> float:
    """Different responses over all responses."""
    return len({tuple(row) for row in responses}) / len(responses)


def best_index(grades: Sequence[float]) -> int:
    """Where the highest grade stands; the first of equal ones."""
    return max(range(len(grades)), key=lambda index: (grades[index], -index))


def best_of_k_mean(grades: Sequence[float], values: Sequence[float], k: int) -> float:
    """The value of the best-graded of k responses, in the mean over all ways to draw the k.

    Of n responses the one of rank r (from 1) is the best of its k with probability
    C(n - r, k - 1) / C(n, k), so n samples give an unbiased estimate for every k <= n.
    """
    count = len(grades)
    order = sorted(range(count), key=lambda index: (-grades[index], index))
    ways = math.comb(count, k)
    return sum(
        values[index] * math.comb(count - rank, k - 1) / ways
        for rank, index in enumerate(order, start=1)
        if count - rank >= k - 1
    )


def best_of_n_kl(n: int) -> float:
    """KL(best of n || one sample) in nats: ln n - (n - 1) / n (arXiv:2210.10760, section 2.4).

    Exact where the n responses differ and no two are graded the same, else an upper bound
    (arXiv:2401.01879).
    """
    return math.log(n) - (n - 1) / n
