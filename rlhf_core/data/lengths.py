"""Lengths of prompts and responses, counted as training will count them and without torch.

Where the base model is yet to be made, its tokenizer is too, and words are counted instead.
"""

import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import Tokenizer, models

from rlhf_core.data.base_tokenizer import BaseTokenizer
from rlhf_core.data.control_tokens import EOS, PAD, ControlTokens, control_tokens
from rlhf_core.literal_text import LiteralText, Piece, Pieces
from rlhf_core.settings.model import ModelSettings

Units = Sequence[Hashable]
"""What a text consists of: token ids, or words."""


@dataclass(frozen=True)
class LengthCounter:
    """Reads a prompt and a response as what they add to a sequence, special tokens included.

    `prompts` leaves nothing out; `responses` leaves out the end token, which is one more.
    """

    unit: Literal["tokens", "words"]
    prompts: Callable[[Sequence[str]], list[Units]]
    responses: Callable[[Sequence[str]], list[Units]]
    most_of_prompt: Callable[[str], int] | None
    """How many units a prompt has at most, which costs nothing; None where nothing bounds it."""

    most_of_response: Callable[[str], int] | None
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
    before, after = (Piece(text, ours=True) for text in _around(model))
    prefix = Piece(model.response_prefix, ours=True)

    def read(texts: Sequence[Pieces], *, special: bool) -> list[Units]:
        whole = ["".join(piece.text for piece in pieces) for pieces in texts]
        encodings = tokenizer.encode_batch_fast(whole, add_special_tokens=special)
        rows = literal.without_end([encoding.ids for encoding in encodings], special=special)
        return list(literal.checked(texts, rows, special=special))

    def prompts(texts: Sequence[str]) -> list[Units]:
        return read([(before, _said(text), after) for text in texts], special=True)

    def responses(texts: Sequence[str]) -> list[Units]:
        if control.first_in(prefix.text) is not None:
            said = [(prefix, _said(text.removeprefix(prefix.text))) for text in texts]
            return read(said, special=False)
        whole = [prefix.text + _said(text.removeprefix(prefix.text)).text for text in texts]
        return list(literal.continuations(whole))

    bounded = _reads_bytes(tokenizer)
    around = len(prompts([""])[0]) + len((before.text + after.text).encode()) + 2
    behind = len(prefix.text.encode()) + 3
    return LengthCounter(
        unit="tokens",
        prompts=prompts,
        responses=responses,
        most_of_prompt=(lambda text: _bytes(text) + around) if bounded else None,
        most_of_response=(lambda text: _bytes(text) + behind) if bounded else None,
        control=control,
        end=base.end,
    )


def _word_counter(model: ModelSettings) -> LengthCounter:
    before, after = _around(model)
    around = len(before) + len(after) + 2
    behind = len(model.response_prefix) + 4

    def prompts(texts: Sequence[str]) -> list[Units]:
        return [f"{before}{text}{after}".split() for text in texts]

    def responses(texts: Sequence[str]) -> list[Units]:
        return [(model.response_prefix + text).split() for text in texts]

    return LengthCounter(
        unit="words",
        prompts=prompts,
        responses=responses,
        most_of_prompt=lambda text: (len(text) + around) // 2,
        most_of_response=lambda text: (len(text) + behind) // 2,
        control=ControlTokens({PAD: 0, EOS: 1}),
        end=EOS,
    )


def _around(model: ModelSettings) -> tuple[str, str]:
    """What the template writes before and after a prompt."""
    before, _, after = model.prompt_template.partition("{prompt}")
    return before, after


def _said(text: str) -> Piece:
    """Text of a row; half a character pair, of which a row is refused, as what can be encoded."""
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    return Piece(text, ours=False)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


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
