"""Pairs of about 500 bytes, the same for the same size, to measure readers of data by.

Prompts differ; four rows in 1,000 repeat an earlier row, and one turns an earlier one around.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

_SENTENCES = 20_000
_ENDINGS = (".", ".", ".", "?", "!", ":\n")

_COMMON = (
    "the of and to a in is that it was for on are as with they be at one have this from or had by "
    "hot but some what there we can out other were all your when up use word how said an each she "
    "which do their time if will way about many then them would write like so these her long make "
    "thing see him two has look more day could go come did my sound no most number who over know "
    "water than call first people may down side been now find any new work part take get place "
    "made live where after back little only round man year came show every good me give our under "
    "name receipt invoice account password delivery refund customer order support answer question "
    "café naïve größer señor данные вопрос ответ 数据 回答 質問 مرحبا सवाल 한국어 emoji😀"
)

_WORDS = _COMMON.split()


def write_pairs(path: Path, size: int, *, seed: int = 0) -> int:
    """The file has pairs, `size` bytes of them; gives their number."""
    count = 0
    with path.open("wb") as file:
        for line in _lines(seed):
            file.write(line)
            count += 1
            size -= len(line)
            if size <= 0:
                return count
    return count


def _lines(seed: int) -> Iterator[bytes]:
    draw = random.Random(seed)
    sentences = [_sentence(draw) for _ in range(_SENTENCES)]
    recent: list[dict[str, object]] = []
    number = 0
    while True:
        number += 1
        texts = draw.choices(sentences, k=8)
        row: dict[str, object] = {
            "prompt": f"{number}. {texts[0]} {texts[1]}",
            "chosen": " ".join(texts[2:5]),
            "rejected": " ".join(texts[5 : 5 + 2 + number % 2]),
        }
        kind = draw.random()
        if kind < 0.005 and recent:
            row = dict(draw.choice(recent))
            if kind < 0.001:
                row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
        if number % 1000 == 0:
            recent = [*recent[-99:], row]
        yield json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _sentence(draw: random.Random) -> str:
    words = draw.choices(_WORDS, k=draw.randrange(7, 15))
    return " ".join(words).capitalize() + draw.choice(_ENDINGS)
