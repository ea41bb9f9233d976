r"""Dialogues as text: chat messages, whole transcripts, and stories with an opening.

Turns are written as in Anthropic's HH data (arXiv:2204.05862): "\n\nHuman: ...\n\nAssistant: ...".
"""

import re
from collections.abc import Sequence
from itertools import islice
from typing import Literal, NamedTuple, TypedDict

from rlhf_core.data.raw_rows import type_in_words
from rlhf_core.data.shown_text import escaped, shown_key
from rlhf_core.data.texts import is_blank
from rlhf_core.data.unusable import UnusableError

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"

_MARKER = re.compile(f"({HUMAN}|{ASSISTANT})")

_ROLES = ("system", "user", "assistant")

_SENTENCE_END = re.compile(r"""[.!?…]["'”’)\]]*(?=\s)|[。！？]["'”’」』)\]]*""")


def render_messages(messages: Sequence[object], field: str) -> str:
    """The messages as one transcript, which ends in an assistant's turn."""
    return "".join(split_messages(messages, field))


def split_messages(messages: Sequence[object], field: str) -> tuple[str, str]:
    r"""The messages up to the last answer's "\n\nAssistant:", and the answer."""
    turns, last = _turns(messages, field)
    if last != "assistant":
        what = f"{len(messages)} messages, the last of them not the assistant's"
        raise UnusableError("ROLE-005", field, what if messages else "an empty list of messages")
    answer = turns.pop().removeprefix(ASSISTANT)
    return "".join([*turns, ASSISTANT]), answer


def render_prompt(messages: Sequence[object], field: str) -> str:
    r"""Messages that await an answer as the beginning of a transcript, up to "\n\nAssistant:"."""
    turns, last = _turns(messages, field)
    if last == "assistant":
        seen = (
            f"the last message, at index {len(messages) - 1}, is the assistant's, and the response "
            "would follow it; expected one of the user"
        )
        raise UnusableError("ROLE-002", field, seen)
    if last is None:
        what = "no message of a user" if messages else "an empty list of messages"
        raise UnusableError("ROLE-005", field, what)
    return "".join([*turns, ASSISTANT])


def reply_of(messages: Sequence[object], field: str) -> str:
    """The content of the one message that a response is."""
    if len(messages) != 1:
        seen = (
            f"{len(messages)} messages, which do not begin with those of the prompt; expected one "
            "message of the assistant, or the prompt's messages and one"
        )
        raise UnusableError("PREF-003" if messages else "ROLE-005", field, seen)
    role, content = _message(messages[0], 0, field)
    if role != "assistant":
        seen = f"the response is a message of {role!r} at index 0, expected the assistant's"
        raise UnusableError("ROLE-005", field, seen)
    return content


def _turns(messages: Sequence[object], field: str) -> tuple[list[str], str | None]:
    """The text of each message with its marker, and who spoke last; None where no user did."""
    turns: list[str] = []
    previous: str | None = None
    for index, message in enumerate(messages):
        role, content = _message(message, index, field)
        if role == "system":
            if index > 0:
                raise UnusableError("ROLE-003", field, f"a system message at index {index}")
            turns.append(content)
            continue
        if role == "assistant" and previous is None:
            raise UnusableError("ROLE-001", field, f"a message of {role!r} at index {index}")
        if role == previous:
            seen = f"a message of {role!r} at index {index}, after another of {role!r}"
            raise UnusableError("ROLE-002", field, seen)
        turns.append(f"{HUMAN} {content}" if role == "user" else f"{ASSISTANT} {content}")
        previous = role
    return turns, previous


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
    shared = chosen[: _shared_length(chosen, rejected)]
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


def _shared_length(one: str, other: str) -> int:
    """How many characters two texts share at their beginnings."""
    least, most = 0, min(len(one), len(other))
    while least < most:  # both agree up to `least`, and not beyond `most`
        middle = (least + most + 1) // 2
        if one[least:middle] == other[least:middle]:
            least = middle
        else:
            most = middle - 1
    return least


def split_opening(text: str, sentences: int) -> tuple[str, str]:
    """The first sentences of a text, and the rest."""
    whole = text.strip()
    ends = [match.end() for match in islice(_SENTENCE_END.finditer(whole), sentences)]
    if len(ends) < sentences:
        raise UnusableError("TXT-004", "text", f"{len(ends)} sentences followed by more text")
    opening, rest = whole[: ends[-1]], whole[ends[-1] :]
    if not rest.strip():
        raise UnusableError("TXT-004", "text", f"{len(ends)} sentences and no text after them")
    return opening, rest


_ALIASES = {
    "human": "user",
    "customer": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "developer": "system",
}
"""Roles of other formats, and what they are here."""


def _message(message: object, index: int, field: str) -> tuple[str, str]:
    """Role and content of a message that is whole."""
    if not isinstance(message, dict) or "role" not in message or "content" not in message:
        raise UnusableError("SCH-004", field, f"{_incomplete(message)} at index {index}")
    role, content = message["role"], message["content"]
    if role not in _ROLES:
        raise UnusableError("ROLE-004", field, f"{_unknown(role)} at index {index}")
    if not isinstance(content, str):
        seen = f"content is {type_in_words(content)} at index {index}, expected a text"
        raise UnusableError("SCH-004", field, seen)
    if is_blank(content):
        raise UnusableError("TXT-001", field, f"a blank message at index {index}")
    if HUMAN in content or ASSISTANT in content:
        raise UnusableError("TOK-001", field, f"a turn marker inside the message at index {index}")
    return role, content


def _incomplete(message: object) -> str:
    if not isinstance(message, dict):
        return f"{type_in_words(message)} without role and content"
    keys = ", ".join(repr(shown_key(str(key))) for key in list(message)[:6]) or "no keys"
    hint = "; rename 'from' and 'value'" if {"from", "value"} <= message.keys() else ""
    return f"an object without role and content, with {keys}{hint}"


def _unknown(role: object) -> str:
    shown = escaped(role) if isinstance(role, str) else type_in_words(role)
    known = _ALIASES.get(role.strip().lower()) if isinstance(role, str) else None
    if isinstance(role, str) and role.strip().lower() in _ROLES:
        known = role.strip().lower()
    if known is not None:
        return f"the role {shown}, which is {known!r} here,"
    if role in ("tool", "function"):
        return f"the role {shown}, of which nothing can be trained here,"
    return f"the role {shown}"
