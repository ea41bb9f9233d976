"""Conversations as token ids by the tokenizer's own template, spliced so that no text can forge it.

The template is rendered around placeholders. What it writes itself is encoded with control tokens,
and the text of a message without: it becomes plain text whatever it holds (C11). Which tokens are
an assistant's follows from the splice, and no text is searched for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, cast

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from rlhf_core.chat_template import ChatTemplate
from rlhf_core.data.control_tokens import control_tokens
from rlhf_core.data.dialogues import Message
from rlhf_core.errors import ModelError
from rlhf_core.literal_text import LiteralText
from rlhf_core.settings.model import ModelSettings

Roles = tuple[str, ...]


class Spliced(NamedTuple):
    """The ids of a conversation, and True at those that an assistant's turn consists of."""

    ids: list[int]
    said: list[bool]


class Pieces(NamedTuple):
    """What a template writes around the messages: one text before each, and one after the last."""

    before: tuple[str, ...]
    after: str


@dataclass(frozen=True)
class ChatCodec:
    """Encodes conversations by `template` with the vocabulary of `tokenizer`."""

    tokenizer: PreTrainedTokenizerBase
    template: ChatTemplate
    _pieces: dict[tuple[Roles, bool], Pieces] = field(default_factory=dict)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "ChatCodec | None":
        """By the template that the tokenizer carries; None where it carries none."""
        text = template_of(tokenizer)
        return None if text is None else cls(tokenizer, ChatTemplate(text, _special(tokenizer)))

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids that the policy reads before it answers: all turns and the answer's beginning."""
        pieces = self.pieces(messages, generation=True)
        ids = self._turns(messages, pieces).ids
        return [*ids, *self.template_ids(pieces.after)]

    def answer(self, messages: Sequence[Message], response: str) -> list[int]:
        """Ids of the response as it follows `prompt`, up to the token that ends its turn."""
        whole = [*messages, _assistant(response)]
        header = self.pieces(messages, generation=True).after
        pieces = self.pieces(whole, generation=False)
        return self._said(pieces.before[-1], header, self.kept(response), pieces.after)

    def whole(self, messages: Sequence[Message]) -> Spliced:
        """Ids of a finished conversation, up to the token that ends its last turn."""
        pieces = self.pieces(messages, generation=False)
        return self._turns(messages, pieces)

    def said_before(self, messages: Sequence[Message]) -> list[bool]:
        """For each id of `prompt` whether an assistant said it in an earlier turn."""
        said = self._turns(messages, self.pieces(messages, generation=True)).said
        return said + [False] * (len(self.prompt(messages)) - len(said))

    def text(self, messages: Sequence[Message]) -> str:
        """The conversation as the pieces and the messages give it."""
        pieces = self.pieces(messages, generation=False)
        spelt = zip(pieces.before, messages, strict=True)
        return "".join(before + self.kept(of["content"]) for before, of in spelt) + pieces.after

    def pieces(self, messages: Sequence[Message], *, generation: bool) -> Pieces:
        """What the template writes around messages of these roles."""
        roles = tuple(message["role"] for message in messages)
        if (roles, generation) not in self._pieces:
            self._pieces[roles, generation] = self._found_pieces(messages, generation=generation)
        return self._pieces[roles, generation]

    def kept(self, content: str) -> str:
        """The text of a message as the template takes it in: trimmed where the template trims."""
        return content.strip() if self._trims else content

    def template_ids(self, text: str) -> list[int]:
        """Ids of what the template itself writes, control tokens and all."""
        return self.literal.template_ids(text)

    def text_ids(self, text: str) -> list[int]:
        """Ids of a message's text, none of which is a control token."""
        return self.literal.continued_ids(text)

    @cached_property
    def literal(self) -> LiteralText:
        """By which no text yields a control token."""
        return literal_text(self.tokenizer)

    @property
    def control_ids(self) -> frozenset[int]:
        """Ids that come from the template and from no text."""
        return self.literal.control.all_ids

    @cached_property
    def turn_end(self) -> int:
        """The control token with which the template ends an assistant's turn."""
        probe: list[Message] = [{"role": "user", "content": "x"}, _assistant("y")]
        after = self.template_ids(self.pieces(probe, generation=False).after)
        ends = [token for token in after if token in self.control_ids]
        if not ends:
            raise ModelError(
                "The chat template puts no control token behind an assistant's turn, so the policy "
                "could not learn to end: let it write eos_token there, for example "
                "`{{ message['content'] + eos_token }}`, in model.chat_template."
            )
        return ends[0]

    def _turns(self, messages: Sequence[Message], pieces: Pieces) -> Spliced:
        """The ids of all turns; what follows the last is left to the caller, but for its end."""
        spliced = Spliced([], [])
        rest = ""  # of the piece behind an assistant's turn, whose beginning has been read
        for number, (message, piece) in enumerate(zip(messages, pieces.before, strict=True)):
            before = piece.removeprefix(rest) if rest else piece
            rest = ""
            content = self.kept(message["content"])
            if message["role"] == "assistant":
                header = self.pieces(messages[:number], generation=True).after
                last = number == len(messages) - 1
                behind = pieces.after if last else pieces.before[number + 1]
                said = self._said(piece, header, content, behind)
                _extend(spliced, self.template_ids(header), said=False)
                _extend(spliced, said, said=True)
                rest = self._until_end(behind)
            else:
                own = before.rstrip()
                _extend(spliced, self.template_ids(own), said=False)
                _extend(spliced, self.text_ids(before[len(own) :] + content), said=False)
        return spliced

    def _said(self, piece: str, header: str, content: str, behind: str) -> list[int]:
        """Ids of an assistant's turn after its header, up to the token that ends it."""
        if not piece.startswith(header):
            raise ModelError(
                f"With add_generation_prompt the chat template ends in {header[-40:]!r}, but an "
                f"assistant's turn begins with {piece[-40:]!r}: what is learnt is not what will be "
                "generated. Let model.chat_template write the same beginning in both."
            )
        opening = piece[len(header) :]
        own = opening.rstrip()
        return [
            *self.template_ids(own),
            *self.text_ids(opening[len(own) :] + content),
            *self.template_ids(self._until_end(behind)),
        ]

    def _until_end(self, behind: str) -> str:
        """The beginning of a piece, up to the token that ends the assistant's turn before it."""
        end = cast(str, self.tokenizer.convert_ids_to_tokens(self.turn_end))
        place = behind.find(end)
        return behind[: place + len(end)] if place >= 0 else ""

    def _found_pieces(self, messages: Sequence[Message], *, generation: bool) -> Pieces:
        marks = [f"\ue000{number}\ue001" for number in range(len(messages))]
        marked = [
            Message(role=message["role"], content=mark)
            for message, mark in zip(messages, marks, strict=True)
        ]
        rest = self.template.render(marked, add_generation_prompt=generation)
        before = []
        for mark, message in zip(marks, messages, strict=True):
            piece, found, rest = rest.partition(mark)
            if not found or mark in rest:
                raise ModelError(
                    f"The chat template does not write the message of role {message['role']!r} "
                    "once and in its place: what is trained on would not be what the data says. "
                    "Leave such messages out, or mend model.chat_template."
                )
            before.append(piece)
        return Pieces(tuple(before), rest)

    @cached_property
    def _trims(self) -> bool:
        probe: list[Message] = [{"role": "user", "content": "  x  "}, _assistant("  y  ")]
        return "  x  " not in self.template.render(probe, add_generation_prompt=False)


def carry_template(tokenizer: PreTrainedTokenizerBase, model: ModelSettings) -> None:
    """Let `tokenizer` carry the template that the recipe means, and end as that ends turns.

    The token behind an assistant's turn becomes the end-of-sequence token: what is learnt as the
    end is what ends generation. Padding stays apart from it.
    """
    if model.own_chat_template is not None:
        tokenizer.chat_template = model.own_chat_template
    elif not model.takes_tokenizers_template:
        tokenizer.chat_template = None
    codec = ChatCodec.of(tokenizer)
    if codec is None:
        tokenizer.chat_template = None
        return
    tokenizer.chat_template = codec.template.text
    codec.template.check_on_trial()
    if codec.turn_end != tokenizer.eos_token_id:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(codec.turn_end)


def template_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The template that the tokenizer carries, the default one where it has several."""
    carried: object = getattr(tokenizer, "chat_template", None)
    if isinstance(carried, dict):
        carried = carried.get("default")
    return carried if isinstance(carried, str) else None


def literal_text(tokenizer: PreTrainedTokenizerBase) -> LiteralText:
    """What encodes text with `tokenizer` so that no text yields a control token."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ModelError(
            "The tokenizer has no tokenizer.json, from which text is encoded: load it with "
            "transformers and save it into its folder again, which writes one."
        )
    control = control_tokens(backend, _special(tokenizer))
    return LiteralText(backend, control, cast(int, tokenizer.eos_token_id))


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _special(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    named = tokenizer.special_tokens_map
    return {name: str(of) for name, of in named.items() if name != "additional_special_tokens"}


def _extend(spliced: Spliced, ids: list[int], *, said: bool) -> None:
    """Put the ids behind those in `spliced`."""
    spliced.ids.extend(ids)
    spliced.said.extend([said] * len(ids))
