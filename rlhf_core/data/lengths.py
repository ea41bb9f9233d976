"""Lengths of prompts and responses, counted as training will count them and without torch.

Where the base model is yet to be made, its tokenizer is too, and words are counted instead.
"""

import json
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models

from rlhf_core.chat_splice import ChatSplice
from rlhf_core.chat_template import ChatTemplate
from rlhf_core.data.base_tokenizer import BaseTokenizer
from rlhf_core.data.control_tokens import EOS, PAD, ControlTokens, control_tokens
from rlhf_core.data.dialogues import ASSISTANT, HUMAN, Message, messages_of
from rlhf_core.literal_text import LiteralText, Piece, Pieces
from rlhf_core.settings.model import ModelSettings

_MARKER = re.compile(r"\[/?[A-Z][A-Z_]+\]|<</?[A-Z]+>>|<\|[\w-]{1,40}\|>|</?[a-z]+_of_[a-z]+>")
"""What templates write as roles and ends, be it a token of its own or plain text."""

Units = Sequence[Hashable]
"""What a text consists of: token ids, or words."""


class Bound(NamedTuple):
    """How many units a text comes to at most, told from its bytes alone."""

    of_byte: float
    around: int
    of_turn: int = 0
    """For each turn marker of a dialogue."""

    def most(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """At most so many for each of the texts."""
        try:
            sizes = map(len, map(str.encode, texts))
            found = np.fromiter(sizes, dtype=np.float64, count=len(texts))
        except UnicodeEncodeError:  # half a character pair, which another rule names
            found = np.array([float(4 * len(text)) for text in texts])
        if self.of_turn:
            marks = (text.count(HUMAN) + text.count(ASSISTANT) for text in texts)
            turns = np.fromiter(marks, dtype=np.float64, count=len(texts))
            return found * self.of_byte + turns * self.of_turn + self.around
        return found * self.of_byte + self.around


@dataclass(frozen=True)
class LengthCounter:
    """Reads a prompt and a response as what they add to a sequence, special tokens included.

    `prompts` leaves nothing out; `responses` leaves out the end token, which is one more.
    """

    unit: Literal["tokens", "words"]
    prompts: Callable[[Sequence[str]], list[Units]]
    responses: Callable[[Sequence[str]], list[Units]]
    prompt_bound: "Bound | None"
    """How many units a prompt has at most; None where nothing bounds it."""

    response_bound: "Bound | None"
    """The same of a response, the end token included."""

    control: ControlTokens
    """What no text of a row may come to."""

    end: str | None
    """The token that training puts behind every response, where it is known."""


def length_counter(model: ModelSettings, base: BaseTokenizer | None) -> LengthCounter:
    """Tokens of the base model's tokenizer; words where it is yet to be made from the corpus."""
    if base is None:
        return _word_counter(model)
    tokenizer = base.tokenizer
    control = control_tokens(tokenizer, base.named)
    end = None if base.end is None else tokenizer.token_to_id(base.end)
    literal = LiteralText(tokenizer, control, -1 if end is None else end)
    template = model.own_chat_template
    if template is None and model.takes_tokenizers_template:
        template = base.chat_template
    if template is None:
        return _plain_counter(model, literal, base.end)
    names = {name: token for name, token in base.named.items() if name.endswith("_token")}
    return _chat_counter(ChatSplice(ChatTemplate(template, names), literal))


def _plain_counter(model: ModelSettings, literal: LiteralText, end: str | None) -> LengthCounter:
    """By `prompt_template` and `response_prefix`, as `batches.Encoder` reads plain rows."""
    before, after = (Piece(text, ours=True) for text in _around(model))
    prefix = Piece(model.response_prefix, ours=True)

    def read(texts: Sequence[Pieces], *, special: bool) -> list[Units]:
        whole = ["".join(piece.text for piece in pieces) for pieces in texts]
        encodings = literal.tokenizer.encode_batch_fast(whole, add_special_tokens=special)
        rows = literal.without_end([encoding.ids for encoding in encodings], special=special)
        return list(literal.checked(texts, rows, special=special))

    def prompts(texts: Sequence[str]) -> list[Units]:
        said = [Piece(_encodable(text), ours=False) for text in texts]
        return read([(before, text, after) for text in said], special=True)

    def responses(texts: Sequence[str]) -> list[Units]:
        said = [_encodable(text.removeprefix(prefix.text)) for text in texts]
        if literal.control.first_in(prefix.text) is not None:
            return read([(prefix, Piece(text, ours=False)) for text in said], special=False)
        return list(literal.continuations([prefix.text + text for text in said]))

    bounded = _reads_bytes(literal.tokenizer)
    around = len(prompts([""])[0]) + len((before.text + after.text).encode()) + 2
    behind = len(prefix.text.encode()) + 3
    return LengthCounter(
        unit="tokens",
        prompts=prompts,
        responses=responses,
        prompt_bound=Bound(1, around) if bounded else None,
        response_bound=Bound(1, behind) if bounded else None,
        control=literal.control,
        end=end,
    )


def _chat_counter(chat: ChatSplice) -> LengthCounter:
    """By a chat template, as `batches.Encoder` reads conversations."""
    chat.template.check_on_trial()
    asked: list[Message] = [{"role": "user", "content": "x"}]
    answered: list[Message] = [*asked, {"role": "assistant", "content": "x"}, *asked]

    def prompts(texts: Sequence[str]) -> list[Units]:
        return [chat.prompt(messages_of(_encodable(text))) for text in texts]

    def responses(texts: Sequence[str]) -> list[Units]:
        return [chat.answer(asked, _encodable(text))[:-1] for text in texts]

    bounded = _reads_bytes(chat.literal.tokenizer)
    once, thrice = len(chat.prompt(asked)), len(chat.prompt(answered))
    behind = len(chat.answer(asked, "")) + 2

    return LengthCounter(
        unit="tokens",
        prompts=prompts,
        responses=responses,
        prompt_bound=Bound(1, once, thrice) if bounded else None,
        response_bound=Bound(1, behind) if bounded else None,
        control=chat.literal.control.with_markers(_MARKER.findall(chat.template.text)),
        end=chat.end_token,
    )


def _word_counter(model: ModelSettings) -> LengthCounter:
    before, after = _around(model)
    around = (len(before) + len(after) + 1) // 2 + 1
    behind = (len(model.response_prefix) + 1) // 2 + 2

    def prompts(texts: Sequence[str]) -> list[Units]:
        return [f"{before}{text}{after}".split() for text in texts]

    def responses(texts: Sequence[str]) -> list[Units]:
        return [(model.response_prefix + text).split() for text in texts]

    return LengthCounter(
        unit="words",
        prompts=prompts,
        responses=responses,
        prompt_bound=Bound(0.5, around),
        response_bound=Bound(0.5, behind),
        control=ControlTokens({PAD: 0, EOS: 1}),
        end=EOS,
    )


def _around(model: ModelSettings) -> tuple[str, str]:
    """What the template writes before and after a prompt."""
    before, _, after = model.prompt_template.partition("{prompt}")
    return before, after


def _encodable(text: str) -> str:
    """The text; half a character pair, of which a row is refused, as what can be encoded."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _reads_bytes(tokenizer: Tokenizer) -> bool:
    """Whether a text has no more tokens than bytes, but for what is put before it.

    True of byte pairs over bytes, and over characters of which unknown ones come to their bytes,
    where nothing but spaces is changed before.
    """
    if not isinstance(tokenizer.model, models.BPE):
        return False
    steps = _steps(tokenizer.normalizer, "normalizers")
    if any(step["type"] not in ("Prepend", "Replace") for step in steps):
        return False
    replaced = [step for step in steps if step["type"] == "Replace"]
    if any((step["pattern"], step["content"]) != ({"String": " "}, "▁") for step in replaced):
        return False
    before = _steps(tokenizer.pre_tokenizer, "pretokenizers")
    over_bytes = any(step["type"] == "ByteLevel" for step in before)
    falls_back = bool(tokenizer.model.byte_fallback)
    return over_bytes or (falls_back and tokenizer.token_to_id("▁") is not None)


def _steps(part: Any, inner: str) -> list[dict[str, Any]]:
    """The steps of a tokenizer's normalizer or pre-tokenizer, as they are described."""
    if part is None:
        return []
    return _flat(json.loads(part.__getstate__()), inner)


def _flat(step: dict[str, Any], inner: str) -> list[dict[str, Any]]:
    return [one for of in step[inner] for one in _flat(of, inner)] if inner in step else [step]
