"""The world's files: ordinary JSONL, written once and then read like anybody's data."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from random import Random

from rlhf_core.errors import DataError
from rlhf_core.settings.data import SupportDeskSettings
from rlhf_core.world.messages import DISTINCT_MESSAGES, draw_facts, read_message, write_message
from rlhf_core.world.rankings import draw_ranked_replies, draw_ranks
from rlhf_core.world.replies import draw_demonstration

Row = Mapping[str, object]

MOST_MESSAGES = DISTINCT_MESSAGES // 4
"""Above this, drawing until a message is new would repeat itself too often."""


def write_world(settings: SupportDeskSettings, folder: Path, *, seed: int) -> None:
    """Write demonstrations, rankings, pairs, prompts and texts into `folder`, no prompt twice.

    The same settings and seed give the same bytes.
    """
    sizes = (
        settings.demonstrations,
        settings.rankings,
        settings.pairs,
        settings.prompts,
        settings.texts,
    )
    if sum(sizes) > MOST_MESSAGES:
        raise DataError(
            f"The world was asked for {sum(sizes)} prompts but has words for {MOST_MESSAGES}: "
            "lower demonstrations, rankings, pairs, prompts or texts in `data.world`."
        )
    messages = _distinct_messages(Random(f"messages {seed}"))
    demonstrations, rankings, pairs, prompts, texts = (
        [next(messages) for _ in range(size)] for size in sizes
    )
    _write_rows(
        folder / "demonstrations.jsonl",
        _demonstrations(demonstrations, Random(f"demonstrations {seed}")),
    )
    _write_rows(
        folder / "rankings.jsonl",
        _rankings(rankings, settings.replies_per_ranking, Random(f"rankings {seed}")),
    )
    _write_rows(folder / "pairs.jsonl", _pairs(pairs, Random(f"pairs {seed}")))
    _write_rows(folder / "prompts.jsonl", _demonstrations(prompts, Random(f"references {seed}")))
    if texts:
        _write_rows(folder / "text.jsonl", _texts(texts, Random(f"texts {seed}")))


def _distinct_messages(rng: Random) -> Iterator[str]:
    seen: set[str] = set()
    while True:
        message = write_message(draw_facts(rng), rng)
        if message not in seen:
            seen.add(message)
            yield message


def _demonstrations(prompts: Iterable[str], rng: Random) -> Iterator[Row]:
    for prompt in prompts:
        yield {"prompt": prompt, "response": draw_demonstration(read_message(prompt), rng)}


def _texts(prompts: Iterable[str], rng: Random) -> Iterator[Row]:
    for row in _demonstrations(prompts, rng):
        yield {"text": f"{row['prompt']}\n{row['response']}"}


def _rankings(prompts: Iterable[str], count: int, rng: Random) -> Iterator[Row]:
    for prompt in prompts:
        facts = read_message(prompt)
        replies = draw_ranked_replies(facts, count, rng)
        yield {
            "prompt": prompt,
            "responses": replies,
            "ranks": draw_ranks(facts, replies, rng),
        }


def _pairs(prompts: Iterable[str], rng: Random) -> Iterator[Row]:
    for prompt in prompts:
        facts = read_message(prompt)
        replies = draw_ranked_replies(facts, 2, rng)
        ranks = draw_ranks(facts, replies, rng)
        yield {
            "prompt": prompt,
            "chosen": replies[ranks.index(1)],
            "rejected": replies[ranks.index(2)],
        }


def _write_rows(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
