"""Each form's prompt, responses and ranks, taken out of the fields of a raw row."""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from rlhf_core.data.dialogues import (
    HUMAN,
    render_messages,
    render_prompt,
    reply_of,
    split_messages,
    split_opening,
    split_transcripts,
)
from rlhf_core.data.raw_rows import described
from rlhf_core.data.row_fields import Fields, list_of, present, text_of
from rlhf_core.data.shown_text import escaped
from rlhf_core.data.unusable import UnusableError

Form = Literal[
    "prompt_response",
    "pairs",
    "rankings",
    "messages",
    "transcripts",
    "text",
    "whole_text",
    "prompts",
]
"""`text` is cut into an opening and the rest of it; `whole_text`, of the text table, is not."""

COLUMNS_OF_FORM: Mapping[Form, tuple[str, ...]] = {
    "rankings": ("prompt", "responses", "ranks"),
    "pairs": ("prompt", "chosen", "rejected"),
    "transcripts": ("chosen", "rejected"),
    "prompt_response": ("prompt", "response"),
    "messages": ("messages",),
    "text": ("text",),
    "prompts": ("prompt",),
}
"""The columns of each form, the most telling form first."""

PREFERENCE_FORMS: tuple[Form, ...] = ("rankings", "pairs", "transcripts")


class Parts(NamedTuple):
    """What a row says, with the spaces that stand in it."""

    prompt: str
    responses: tuple[str, ...]
    ranks: tuple[int, ...]


_PAIR = (1, 2)


def parts_reader(form: Form, opening_sentences: int) -> Callable[[Fields], Parts]:
    """The function that takes a row of the form apart."""
    if form != "text":
        return _READERS[form]

    def opened(fields: Fields) -> Parts:
        opening, rest = split_opening(text_of(fields, "text"), opening_sentences)
        return Parts(opening, (rest,), ())

    return opened


def _pair(fields: Fields) -> Parts:
    prompt = fields.get("prompt")
    chosen, rejected = fields.get("chosen"), fields.get("rejected")
    if isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str):
        if chosen.startswith(HUMAN) or rejected.startswith(HUMAN):
            return _pair_of_transcripts(prompt, chosen, rejected)
        return Parts(prompt, (chosen, rejected), _PAIR)
    prompt = present(fields, "prompt")
    replies = present(fields, "chosen"), present(fields, "rejected")
    if isinstance(prompt, str) and any(
        isinstance(reply, list) and len(reply) > 1 for reply in replies
    ):
        return _pair_of_dialogues(fields, prompt)
    rendered = _prompt_text(fields)
    return Parts(rendered, (_reply(fields, "chosen"), _reply(fields, "rejected")), _PAIR)


def _pair_of_transcripts(prompt: str, chosen: str, rejected: str) -> Parts:
    """A prompt beside whole transcripts that must both begin with it.

    Where one of the two is no transcript, and the other does not begin with the prompt, they are
    responses, of which one speaks of turns.
    """
    given = prompt.strip()
    texts = chosen.lstrip(), rejected.lstrip()
    are_transcripts = chosen.startswith(HUMAN) and rejected.startswith(HUMAN)
    repeat_it = HUMAN in prompt and any(text.startswith(given) for text in texts)
    if not are_transcripts and not repeat_it:
        return Parts(prompt, (chosen, rejected), _PAIR)
    shared = split_transcripts(chosen, rejected)
    begins = shared.prompt.lstrip().startswith(given) if HUMAN in prompt else given in shared.prompt
    if not begins:
        seen = f"the transcripts share a beginning that does not hold the prompt {escaped(prompt)}"
        raise UnusableError("PREF-003", "chosen", seen)
    return Parts(shared.prompt, (shared.chosen, shared.rejected), _PAIR)


def _pair_of_dialogues(fields: Fields, prompt: str) -> Parts:
    """A prompt as text beside whole dialogues that must hold it as a turn of the user's."""
    for name in ("chosen", "rejected"):
        turns = list_of(fields, name)
        _check_messages(turns, name)
        contents = [turn.get("content") for turn in turns if isinstance(turn, dict)]
        if prompt not in contents:
            seen = f"none of its {len(turns)} messages is the prompt {escaped(prompt)}"
            raise UnusableError("PREF-003", name, seen)
    return _transcripts(fields)


def _ranking(fields: Fields) -> Parts:
    if "responses" not in fields and "chosen" in fields:  # comparisons, joined by group later on
        return _pair(fields)
    responses, ranks = list_of(fields, "responses"), list_of(fields, "ranks")
    for place, response in enumerate(responses):
        if not isinstance(response, str):
            seen = f"{described(response)} at place {place}, expected a text"
            raise UnusableError("SCH-004", "responses", seen)
    whole = [rank for rank in ranks if type(rank) is int and 1 <= rank < 2**31]
    if len(whole) < len(ranks) or len(ranks) != len(responses) or len(ranks) < 2:
        seen = f"{len(responses)} responses and ranks {escaped(str(ranks))}"
        raise UnusableError("PREF-001", "ranks", seen)
    return Parts(_prompt_text(fields), tuple(str(text) for text in responses), tuple(whole))


def _transcripts(fields: Fields) -> Parts:
    whole = [
        render_messages(list_of(fields, name), name)
        if isinstance(present(fields, name), list)
        else text_of(fields, name)
        for name in ("chosen", "rejected")
    ]
    shared = split_transcripts(*whole)
    return Parts(shared.prompt, (shared.chosen, shared.rejected), _PAIR)


def _demonstration(fields: Fields) -> Parts:
    return Parts(_prompt_text(fields), (_reply(fields, "response"),), ())


def _messages(fields: Fields) -> Parts:
    prompt, response = split_messages(list_of(fields, "messages"), "messages")
    return Parts(prompt, (response,), ())


def _prompt(fields: Fields) -> Parts:
    return Parts(_prompt_text(fields), (), ())


def _whole_text(fields: Fields) -> Parts:
    return Parts(text_of(fields, "text"), (), ())


def _prompt_text(fields: Fields) -> str:
    """The prompt, which may be given as messages that await an answer."""
    prompt = fields.get("prompt")
    if not isinstance(prompt, list):
        return text_of(fields, "prompt")
    _check_messages(prompt, "prompt")
    return render_prompt(prompt, "prompt")


def _reply(fields: Fields, name: str) -> str:
    """A response, which may be given as messages: one, or those of the prompt and one."""
    value = present(fields, name)
    if not isinstance(value, list):
        return text_of(fields, name)
    _check_messages(value, name)
    prompt = fields.get("prompt")
    turns = len(prompt) if isinstance(prompt, list) else 0
    if len(value) > 1 and value[:turns] == prompt:
        return reply_of(value[turns:], name)
    return reply_of(value, name)


def _check_messages(values: list[object], name: str) -> None:
    """Raise where a list stands in place of a text and is none of messages."""
    if values and not any(isinstance(value, dict) for value in values):
        seen = f"a list of {len(values)}, expected a text, or messages with role and content"
        raise UnusableError("SCH-004", name, seen)


_READERS: Mapping[Form, Callable[[Fields], Parts]] = {
    "prompt_response": _demonstration,
    "pairs": _pair,
    "rankings": _ranking,
    "messages": _messages,
    "transcripts": _transcripts,
    "prompts": _prompt,
    "whole_text": _whole_text,
}
