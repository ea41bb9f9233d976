"""Conversations as token ids by a chat template, spliced so that no text can forge it (C11).

The template is rendered around placeholders. What it writes itself is encoded with control tokens,
and the text of a message without: it becomes plain text whatever it holds. Which tokens are an
assistant's follows from the splice, and no text is searched for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, cast

from rlhf_core.chat_template import ChatTemplate
from rlhf_core.data.dialogues import Message
from rlhf_core.errors import ModelError
from rlhf_core.literal_text import LiteralText

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
class ChatSplice:
    """Encodes conversations by `template`, and their texts by `literal`."""

    template: ChatTemplate
    literal: LiteralText
    _pieces: dict[tuple[Roles, bool], Pieces] = field(default_factory=dict)

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

    @property
    def end_token(self) -> str:
        """The same as it is written."""
        return cast(str, self.literal.tokenizer.id_to_token(self.turn_end))

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
        end = self.end_token
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


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _extend(spliced: Spliced, ids: list[int], *, said: bool) -> None:
    """Put the ids behind those in `spliced`."""
    spliced.ids.extend(ids)
    spliced.said.extend([said] * len(ids))
