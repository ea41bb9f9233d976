"""How happy a text is, by the words in it that people rated.

The ratings and the rules that join them are VADER's (Hutto and Gilbert, 2014), from the package
vaderSentiment.
"""

import re
from collections.abc import Sequence
from functools import cache
from statistics import fmean
from typing import Any

from rlhf_core.errors import RecipeError

_SENTENCE_END = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"')]))\s+")


def happiness(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """The mean over each response's sentences of VADER's compound score, from -1 to 1.

    By sentence, since the compound of a whole story is next to 1 or -1 whatever it tells. Raises
    RecipeError where the package is missing.
    """
    del prompts  # a story is as happy as what is told, not as what was asked for
    score = _analyzer().polarity_scores
    return [
        fmean(score(sentence)["compound"] for sentence in sentences_of(response))
        for response in responses
    ]


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, as their ends and the space after them tell; at least one."""
    return [part for part in _SENTENCE_END.split(text) if part.strip()] or [text]


@cache
def _analyzer() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise RecipeError(
            "The labeler rlhf_core.labelers.sentiment:happiness needs the package vaderSentiment, "
            "which is not installed: pip install 'rlhf[stories]', or pip install vaderSentiment."
        ) from error
    return SentimentIntensityAnalyzer()
