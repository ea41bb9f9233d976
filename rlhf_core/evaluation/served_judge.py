"""Verdicts of a model that is served behind an OpenAI-compatible address.

Judges favour the response that they read first (arXiv:2306.05685, 3.3), so every pair is asked
about in both orders; a pair on which the two verdicts disagree is a tie.
"""

import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import httpx

from rlhf_core.errors import RecipeError, ServiceError
from rlhf_core.settings.judge import JudgeSettings
from rlhf_core.statistics import Interval, bootstrap_mean

Verdict = Literal["A", "B", "T", "?"]
"""The first response, the second, a tie, or an answer that is none of these."""

MOST_UNCLEAR = 0.2
"""Above this share of unclear answers the judge does not do what it is asked."""

LONGEST_WAIT_SECONDS = 30.0

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_LETTER = re.compile(r"\b([ABT])\b")


class Pair(NamedTuple):
    """A prompt with our response and the rival's."""

    prompt: str
    ours: str
    theirs: str


class Asked(NamedTuple):
    """One pair with both verdicts: our response read first, and read second."""

    pair: Pair
    ours_first: Verdict
    ours_second: Verdict

    @property
    def points(self) -> float:
        """1 where ours won in both orders, 0 where the rival's did, else a half."""
        won = (self.ours_first == "A") + (self.ours_second == "B")
        lost = (self.ours_first == "B") + (self.ours_second == "A")
        return 1.0 if won == 2 else 0.0 if lost == 2 else 0.5


@dataclass(frozen=True)
class Judgement:
    """What the judge says of all pairs."""

    asked: Sequence[Asked]
    rate: Interval
    """Win rate of our responses; a tie counts half."""

    disagreement: float
    """Share of the pairs on which the verdict changed sides with the order."""

    first_wins: float
    """Share of the clear verdicts for whichever response was read first: a half without bias."""

    unclear: float
    """Share of the answers that were no verdict; they count as ties."""


def judged_pairs(
    pairs: Sequence[Pair], settings: JudgeSettings, *, bootstrap_samples: int, seed: int
) -> Judgement:
    """Ask about every pair in both orders.

    Raises RecipeError where the key is missing, the judge refuses, or its answers are no verdicts;
    ServiceError where it cannot be reached after all tries, which may pass.
    """
    with _client(settings) as client, ThreadPoolExecutor(settings.requests_together) as pool:
        orders = [order for pair in pairs for order in (pair, Pair(pair[0], pair[2], pair[1]))]
        verdicts = list(pool.map(lambda order: _verdict(client, settings, order), orders))
    asked = [
        Asked(pair, verdicts[2 * place], verdicts[2 * place + 1])
        for place, pair in enumerate(pairs)
    ]
    unclear = verdicts.count("?") / len(verdicts)
    if unclear > MOST_UNCLEAR:
        raise RecipeError(
            f"evaluation.judge: {unclear:.0%} of the {len(verdicts)} answers of {settings.model!r} "
            "are no verdict (A, B or T), so a win rate would mean little. Change "
            "evaluation.judge.instruction or max_tokens, or name another model."
        )
    clear = [verdict for verdict in verdicts if verdict in "AB"]
    points = [one.points for one in asked]
    return Judgement(
        asked=asked,
        rate=bootstrap_mean(points, [1.0] * len(points), samples=bootstrap_samples, seed=seed),
        disagreement=sum(_changed_sides(one) for one in asked) / len(asked),
        first_wins=clear.count("A") / len(clear) if clear else 0.5,
        unclear=unclear,
    )


def read_verdict(answer: str) -> Verdict:
    """The last letter A, B or T that stands alone in the answer; `?` where none does."""
    found = _LETTER.findall(answer)
    return found[-1] if found else "?"


def _changed_sides(one: Asked) -> bool:
    return one.ours_first == one.ours_second and one.ours_first in "AB"


def _client(settings: JudgeSettings) -> httpx.Client:
    headers = {}
    if settings.api_key_variable is not None:
        key = os.environ.get(settings.api_key_variable)
        if not key:
            raise RecipeError(
                f"evaluation.judge.api_key_variable: {settings.api_key_variable} is not set in the "
                "environment. Export the judge's key under that name."
            )
        headers["Authorization"] = f"Bearer {key}"
    return httpx.Client(headers=headers, timeout=settings.timeout_seconds)


def _verdict(client: httpx.Client, settings: JudgeSettings, pair: Pair) -> Verdict:
    # Filled in at once: a text that holds `{second}` stays text.
    texts = {"{prompt}": pair.prompt, "{first}": pair.ours, "{second}": pair.theirs}
    question = re.sub("|".join(map(re.escape, texts)), lambda m: texts[m[0]], settings.instruction)
    body = {
        "model": settings.model,
        "messages": [{"role": "user", "content": question}],
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
    }
    answer = _post(client, settings, body)
    try:
        return read_verdict(str(answer["choices"][0]["message"]["content"]))
    except (KeyError, IndexError, TypeError) as error:
        raise RecipeError(
            f"evaluation.judge: {settings.address} answered something else than a chat completion "
            f"({str(answer)[:120]}). Give the address of an OpenAI-compatible server."
        ) from error


def _post(client: httpx.Client, settings: JudgeSettings, body: dict[str, Any]) -> Any:
    url = f"{settings.address.rstrip('/')}/chat/completions"
    seen = "nothing"
    for attempt in range(settings.attempts):
        if attempt:
            time.sleep(min(2.0 ** (attempt - 1), LONGEST_WAIT_SECONDS))
        try:
            response = client.post(url, json=body)
        except httpx.HTTPError as error:
            seen = f"{type(error).__name__}: {error}"
            continue
        if response.status_code in _PASSING:
            seen = f"status {response.status_code}"
            continue
        if response.status_code != httpx.codes.OK:
            raise RecipeError(
                f"evaluation.judge: {url} refused the request with status "
                f"{response.status_code}: {response.text[:200]!r}. Mend the address, the model's "
                "name or the key."
            )
        try:
            return response.json()
        except ValueError:
            seen = f"{response.text[:80]!r}, which is no JSON"
    raise ServiceError(
        f"The judge at {url} gave no answer in {settings.attempts} tries (last: {seen}). Start it "
        "and rerun the evaluation; the other stages are kept."
    )
