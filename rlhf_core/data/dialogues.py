r"""Dialogues as text: chat messages, whole transcripts, and stories with an opening.

Turns are written as in Anthropic's HH data (arXiv:2204.05862): "\n\nHuman: ...\n\nAssistant: ...".
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypedDict

from rlhf_core.data.rules import escaped
from rlhf_core.data.sources import type_in_words
from rlhf_core.data.unusable import UnusableError

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"

_MARKER = re.compile(f"({HUMAN}|{ASSISTANT})")

_ROLES = ("system", "user", "assistant")

_SENTENCE_END = re.compile(r"""[.!?…]["'”’)\]]*(?=\s)|[。！？]["'”’」』)\]]*""")


def render_messages(messages: Sequence[object], field: str) -> str:
    """The messages as one transcript, which ends in an assistant's turn."""
    turns: list[str] = []
    previous = "assistant"
    for index, message in enumerate(messages):
        role, content = _message(message, index, field)
        if role == "system":
            if index > 0:
                raise UnusableError("ROLE-003", field, f"a system message at index {index}")
            turns.append(content)
            continue
        if role == previous:
            rule = "ROLE-001" if role == "assistant" and not _has_user(turns) else "ROLE-002"
            raise UnusableError(rule, field, f"a message of {role!r} at index {index}")
        turns.append(f"{HUMAN if role == 'user' else ASSISTANT} {content}")
        previous = role
    if not turns or previous != "assistant" or not _has_user(turns):
        seen = f"{len(messages)} messages, the last of them not the assistant's"
        raise UnusableError("ROLE-005", field, seen)
    return "".join(turns)


Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    """One turn of a conversation."""

    role: Role
    content: str


def messages_of(prompt: str) -> list[Message]:
    r"""The turns of a prompt: of a transcript each of its own, of any other text one of the user.

    It undoes `render_messages`: what stands before the first "\n\nHuman:" is the system's, and the
    "\n\nAssistant:" at the end, which asks for the answer, is no turn.
    """
    if not is_transcript(prompt):
        return [{"role": "user", "content": prompt}]
    system, *pieces = _MARKER.split(prompt.removesuffix(ASSISTANT))
    turns: list[Message] = [{"role": "system", "content": system}] if system.strip() else []
    for marker, content in zip(pieces[::2], pieces[1::2], strict=True):
        role: Role = "user" if marker == HUMAN else "assistant"
        turns.append({"role": role, "content": content.removeprefix(" ")})
    return turns


def is_transcript(prompt: str) -> bool:
    """Whether the turn markers in a prompt mark its turns: the last of them asks for the answer."""
    return prompt.endswith(ASSISTANT) and HUMAN in prompt


class SplitTranscripts(NamedTuple):
    """What two transcripts share, and how each goes on."""

    prompt: str
    chosen: str
    rejected: str


def split_transcripts(chosen: str, rejected: str) -> SplitTranscripts:
    r"""Shared prompt, chosen and rejected response of two transcripts.

    The prompt ends with the last "\n\nAssistant:" that both share.
    """
    pairs = enumerate(zip(chosen, rejected, strict=False))
    parted = next((place for place, (ours, theirs) in pairs if ours != theirs), None)
    shared = chosen[: min(len(chosen), len(rejected)) if parted is None else parted]
    end = shared.rfind(ASSISTANT)
    if end < 0:
        seen = f"the texts share {len(shared)} characters, without a whole '\\n\\nAssistant:'"
        raise UnusableError("PREF-003", "chosen", seen)
    end += len(ASSISTANT)
    responses = chosen[end:], rejected[end:]
    for field, response in zip(("chosen", "rejected"), responses, strict=True):
        if HUMAN in response:
            raise UnusableError("PREF-009", field, "a human turn after the shared beginning")
    return SplitTranscripts(shared[:end], *responses)


def split_opening(text: str, sentences: int) -> tuple[str, str]:
    """The first sentences of a text, and the rest."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text.strip())]
    if len(ends) < sentences:
        raise UnusableError("TXT-004", "text", f"{len(ends)} sentences followed by more text")
    whole = text.strip()
    opening, rest = whole[: ends[sentences - 1]], whole[ends[sentences - 1] :]
    if not rest.strip():
        raise UnusableError("TXT-004", "text", f"{len(ends)} sentences and no text after them")
    return opening, rest


def _message(message: object, index: int, field: str) -> tuple[str, str]:
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        seen = f"{type_in_words(message)} without role and content at index {index}"
        raise UnusableError("SCH-004", field, seen)
    role, content = message["role"], message["content"]
    if role not in _ROLES:
        raise UnusableError("ROLE-004", field, f"the role {escaped(str(role))} at index {index}")
    if not isinstance(content, str):
        seen = f"content is {type_in_words(content)} at index {index}, expected a text"
        raise UnusableError("SCH-004", field, seen)
    if not content.strip():
        raise UnusableError("TXT-001", field, f"a blank message at index {index}")
    if HUMAN in content or ASSISTANT in content:
        raise UnusableError("TOK-001", field, f"a turn marker inside the message at index {index}")
    return role, content


def _has_user(turns: Sequence[str]) -> bool:
    return any(turn.startswith(HUMAN) for turn in turns)
