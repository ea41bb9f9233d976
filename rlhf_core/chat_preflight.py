"""Before SFT: what training will read of conversations is what generation will read of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rlhf_core.chat import ChatCodec
from rlhf_core.data.dialogues import Message
from rlhf_core.errors import ModelError

CHECKED_ROWS = 64
"""Conversations of the data that are compared token by token."""


@dataclass(frozen=True)
class ChatPreflight:
    """What was compared and found equal."""

    conversations: int
    tokens: int
    left_out: int
    """Conversations with a control token written out in a message: elsewhere it would be forged,
    here it is text, and so the ids differ by intent."""


def check_chat(
    codec: ChatCodec,
    conversations: Sequence[Sequence[Message]],
    *,
    answers: Literal["last", "every"] = "every",
) -> ChatPreflight:
    """Raise ModelError, with the fault of the template named, unless all of this holds.

    The token that ends a turn exists, is learnt, and does not pad. A message's text stands in the
    rendered conversation as it is. A conversation as a whole begins, at each answer that is learnt,
    with the very ids from which that answer is generated: at `every` one of a conversation, or at
    the `last`, since a template may render earlier turns otherwise. The ids of the splice are those
    that the tokenizer gives for the rendered text, as servers encode it.
    """
    codec.template.check_on_trial()
    _check_end(codec)
    tokens = left_out = 0
    chosen = conversations[:CHECKED_ROWS]
    for messages in chosen:
        _check_text(codec, messages)
        _check_turn_by_turn(codec, messages, first=0 if answers == "every" else len(messages) - 1)
        if _writes_control(codec, messages):
            left_out += 1
        else:
            tokens += _check_token_by_token(codec, messages)
    return ChatPreflight(len(chosen), tokens, left_out)


def _check_end(codec: ChatCodec) -> None:
    probe: list[Message] = [{"role": "user", "content": "x"}]
    answer = codec.answer(probe, "y")
    if answer.count(codec.turn_end) != 1 or answer[-1] != codec.turn_end:
        raise ModelError(
            f"The chat template ends an answer in the ids {answer[-4:]}, which do not end in the "
            f"turn's end {codec.turn_end}: the policy could not learn to stop. Mend "
            "model.chat_template."
        )
    if codec.turn_end == codec.tokenizer.pad_token_id:
        raise ModelError(
            f"The chat template ends turns with {_token(codec, codec.turn_end)}, which is the "
            "padding token too: padding is not learnt, so the policy would never end. Give the "
            "tokenizer a padding token of its own."
        )


def _check_text(codec: ChatCodec, messages: Sequence[Message]) -> None:
    rendered = codec.template.render(messages, add_generation_prompt=False)
    ours = codec.text(messages)
    if rendered != ours:
        place = _first_difference(rendered, ours)
        raise ModelError(
            f"The chat template changes the text of a message: it writes "
            f"{rendered[place : place + 40]!r} where {ours[place : place + 40]!r} stands in the "
            "data. Change the message so that it does not, or mend model.chat_template."
        )


def _check_turn_by_turn(codec: ChatCodec, messages: Sequence[Message], *, first: int) -> None:
    whole = codec.whole(messages).ids
    for number, message in enumerate(messages):
        if number < first or message["role"] != "assistant":
            continue
        before = messages[:number]
        read = codec.prompt(before)
        answered = [*read, *codec.answer(before, message["content"])]
        if whole[: len(answered)] != answered:
            place = _first_difference(whole, answered)
            raise ModelError(
                f"The chat template renders a whole conversation otherwise than turn by turn: at "
                f"token {place}, before or in answer {number}, the whole has "
                f"{_tokens(codec, whole[place : place + 5])} and generation would have "
                f"{_tokens(codec, answered[place : place + 5])}. A template that rewrites earlier "
                "turns does this: mend model.chat_template, or learn the last answer alone "
                "(sft.loss_on: response)."
            )


def _check_token_by_token(codec: ChatCodec, messages: Sequence[Message]) -> int:
    """How many tokens were compared."""
    ours = codec.whole(messages).ids
    rendered = codec.template.render(messages, add_generation_prompt=False)
    theirs = codec.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    if theirs[: len(ours)] != ours:
        place = _first_difference(theirs, ours)
        raise ModelError(
            f"Training would read other tokens than a server that encodes the rendered "
            f"conversation: at token {place} {_tokens(codec, ours[place : place + 5])} against "
            f"{_tokens(codec, theirs[place : place + 5])}. The template puts text against a "
            "message with which the tokenizer joins it: let model.chat_template write a line "
            "break or a control token there."
        )
    return len(ours)


def _writes_control(codec: ChatCodec, messages: Sequence[Message]) -> bool:
    control = codec.literal.control
    return any(control.first_in(message["content"]) is not None for message in messages)


def _first_difference(ours: Sequence[object], theirs: Sequence[object]) -> int:
    pairs = enumerate(zip(ours, theirs, strict=False))
    parted = next((place for place, (one, other) in pairs if one != other), None)
    return min(len(ours), len(theirs)) if parted is None else parted


def _token(codec: ChatCodec, token: int) -> str:
    return repr(codec.tokenizer.convert_ids_to_tokens(token))


def _tokens(codec: ChatCodec, ids: Sequence[int]) -> str:
    return " ".join(_token(codec, token) for token in ids) or "nothing"
