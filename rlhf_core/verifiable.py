"""Rewards that are checked instead of learnt: the answer is right or it is not.

ppo:
rewards:
- source: rlhf_core.verifiable:same_final_number
"""

import re
from collections.abc import Sequence
from decimal import Decimal

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")
_MARKED = re.compile(r"####\s*(-?\$?[\d,]*\.?\d+)")


def same_final_number(
    prompts: Sequence[str],
    responses: Sequence[str],
    references: Sequence[str | None],
) -> list[float]:
    """1 where a response ends in the number that its reference ends in, else 0.

    It is GSM8K's exact match (arXiv:2110.14168): the number after the last `####`, or the last
    number at all where there is no such mark. Raises ValueError for a reference without a number.
    """
    scores = []
    for prompt, response, reference in zip(prompts, responses, references, strict=True):
        wanted = None if reference is None else final_number(reference)
        if wanted is None:
            raise ValueError(
                f"the data has no number as the answer to {prompt[:60]!r}: give data.prompts rows "
                "of prompt and response, whose response ends in it"
            )
        scores.append(float(final_number(response) == wanted))
    return scores


def final_number(text: str) -> Decimal | None:
    """The number that a text ends in: 1,000 and 1000.0 are the same one."""
    found = _MARKED.findall(text) or _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "").replace("$", "")) if found else None
