"""Verdicts of a model that is served behind an OpenAI-compatible address.

Judges favour the response that they read first (arXiv:2306.05685, 3.3), so every pair is asked
about in both orders; a pair on which the two verdicts disagree is a tie.
"""

import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import httpx

from rlhf_core.errors import RecipeError, ServiceError
from rlhf_core.settings.judge import PairJudgeSettings

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


def asked_pairs(
    pairs: Sequence[Pair], settings: PairJudgeSettings, *, setting: str
) -> Iterator[Asked]:
    """Ask about every pair in both orders; each in turn as it is answered.

    `setting` is where the user named the judge. Raises RecipeError where the key is missing, the
    judge refuses, or, after the last pair, its answers are no verdicts; ServiceError where it
    cannot be reached after all tries, which may pass.
    """
    orders = [order for pair in pairs for order in (pair, Pair(pair[0], pair[2], pair[1]))]
    unclear = 0
    with _client(settings, setting) as client, _pool(settings) as pool:
        verdicts = pool.map(lambda order: _verdict(client, settings, order, setting), orders)
        for pair in pairs:
            asked = Asked(pair, next(verdicts), next(verdicts))
            unclear += asked[1:].count("?")
            yield asked
    if unclear > MOST_UNCLEAR * len(orders):
        raise RecipeError(
            f"{setting}: {unclear / len(orders):.0%} of the {len(orders)} answers of "
            f"{settings.model!r} are no verdict (A, B or T), so they would mean little. Change "
            "the judge's instruction or max_tokens, or name another model."
        )


def read_verdict(answer: str) -> Verdict:
    """The last letter A, B or T that stands alone in the answer; `?` where none does."""
    found = _LETTER.findall(answer)
    return found[-1] if found else "?"


@contextmanager
def _pool(settings: PairJudgeSettings) -> Iterator[ThreadPoolExecutor]:
    """Threads that ask; where an error ends the asking, what was not begun is not asked."""
    pool = ThreadPoolExecutor(settings.requests_together)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _client(settings: PairJudgeSettings, setting: str) -> httpx.Client:
    headers = {}
    if settings.api_key_variable is not None:
        key = os.environ.get(settings.api_key_variable)
        if not key:
            raise RecipeError(
                f"{setting}.api_key_variable: {settings.api_key_variable} is not set in the "
                "environment. Export the judge's key under that name."
            )
        headers["Authorization"] = f"Bearer {key}"
    return httpx.Client(headers=headers, timeout=settings.timeout_seconds)


def _verdict(
    client: httpx.Client, settings: PairJudgeSettings, pair: Pair, setting: str
) -> Verdict:
    # Filled in at once: a text that holds `{second}` stays text.
    texts = {"{prompt}": pair.prompt, "{first}": pair.ours, "{second}": pair.theirs}
    question = re.sub("|".join(map(re.escape, texts)), lambda m: texts[m[0]], settings.instruction)
    body = {
        "model": settings.model,
        "messages": [{"role": "user", "content": question}],
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
    }
    answer = _post(client, settings, body, setting)
    try:
        return read_verdict(str(answer["choices"][0]["message"]["content"]))
    except (KeyError, IndexError, TypeError) as error:
        raise RecipeError(
            f"{setting}: {settings.address} answered something else than a chat completion "
            f"({str(answer)[:120]}). Give the address of an OpenAI-compatible server."
        ) from error


def _post(
    client: httpx.Client, settings: PairJudgeSettings, body: dict[str, Any], setting: str
) -> Any:
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
                f"{setting}: {url} refused the request with status "
                f"{response.status_code}: {response.text[:200]!r}. Mend the address, the model's "
                "name or the key."
            )
        try:
            return response.json()
        except ValueError:
            seen = f"{response.text[:80]!r}, which is no JSON"
    raise ServiceError(
        f"The judge at {url} gave no answer in {settings.attempts} tries (last: {seen}). Start it "
        "and run again; finished stages are kept."
    )
