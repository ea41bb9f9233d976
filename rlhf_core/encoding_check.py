"""How text becomes ids in all stages: checked once, before SFT, and written down."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from rlhf_core.batches import Encoder
from rlhf_core.chat_preflight import CHECKED_ROWS, check_chat
from rlhf_core.data.dialogues import Message, messages_of
from rlhf_core.folders import digest, pretty_json

ENCODING = "encoding.json"

APART_SHARE = 0.1
"""More responses than this whose first token is not what natural text has are said."""


def checked_encoding(
    encoder: Encoder,
    table: pd.DataFrame,
    notice: Callable[[str], None],
    *,
    answers: Literal["last", "every"],
) -> Mapping[str, Any]:
    """What decides the ids, after the preflight of the chat template or of the plain joint.

    `answers` says which of a conversation's are learnt.
    """
    found: dict[str, Any] = {
        "vocabulary_sha256": digest(encoder.tokenizer.get_vocab()),
        "end": _token(encoder, encoder.eos_token_id),
        "pad": _token(encoder, encoder.pad_token_id),
    }
    if encoder.chat is not None:
        origin = "tokenizer" if encoder.settings.own_chat_template is None else "recipe"
        checked = check_chat(encoder.chat, _conversations(table), answers=answers)
        return found | {
            "chat_template": {"sha256": encoder.chat.template.sha256, "from": origin},
            "preflight": asdict(checked),
        }
    shown = table.head(CHECKED_ROWS)
    apart = encoder.joined_apart(list(shown.prompt), list(shown.response))
    if apart > APART_SHARE * len(shown):
        notice(
            f"{apart} of the first {len(shown)} responses are tokenized apart from their prompts, "
            "since the tokenizer joins the end of the one to the beginning of the other: end "
            "model.prompt_template in a word or a line break, and begin responses with "
            "model.response_prefix ' ' (detail S2)."
        )
    return found | {
        "chat_template": None,
        "prompt_template": encoder.settings.prompt_template,
        "response_prefix": encoder.settings.response_prefix,
        "preflight": {"responses": len(shown), "joined_apart": apart},
    }


def write_encoding(folder: Path, encoding: Mapping[str, Any]) -> None:
    """`folder` holds what was checked as a JSON document."""
    (folder / ENCODING).write_bytes(pretty_json(encoding))


def _conversations(table: pd.DataFrame) -> list[list[Message]]:
    rows = zip(table.prompt.head(CHECKED_ROWS), table.response.head(CHECKED_ROWS), strict=True)
    return [
        [*messages_of(prompt), {"role": "assistant", "content": response}]
        for prompt, response in rows
    ]


def _token(encoder: Encoder, token: int) -> dict[str, Any]:
    return {"id": token, "token": encoder.tokenizer.convert_ids_to_tokens(token)}
