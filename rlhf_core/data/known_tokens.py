"""Control tokens of well-known model families, for files that no recipe names a model for."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from rlhf_core.data.control_checks import JoinedRows, rows_with, text_fields
from rlhf_core.data.control_tokens import any_of
from rlhf_core.data.faults import Fault
from rlhf_core.data.rows import Row
from rlhf_core.data.schemas import TableName
from rlhf_core.data.shown_text import escaped

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "ChatML": ("<|im_start|>", "<|im_end|>", "<|im_sep|>"),
    "GPT-2": ("<|endoftext|>", "<|startoftext|>", "<|endofprompt|>"),
    "Llama 2": ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "</s>"),
    "Llama 3": (
        *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
        *("<|eot_id|>", "<|eom_id|>", "<|python_tag|>", "<|finetune_right_pad_id|>"),
    ),
    "Llama 4": ("<|header_start|>", "<|header_end|>", "<|eot|>", "<|eom|>"),
    "Mistral": ("[AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[SYSTEM_PROMPT]"),
    "Gemma": ("<start_of_turn>", "<end_of_turn>"),
    "Zephyr and Phi": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"),
    "DeepSeek": (
        *("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        *("<｜User｜>", "<｜Assistant｜>"),
    ),
    "Command R": (
        *("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        *("<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"),
    ),
    "gpt-oss": ("<|start|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>"),
    "Qwen": ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|repo_name|>"),
}
"""How they spell their control tokens. Words in plain brackets that HTML or prose could hold, such
as `<s>`, are not among them."""

_OPENED = re.compile(r"<s[\s>]")

_FAMILY = {token: family for family, tokens in FAMILIES.items() for token in tokens}
_FIRST_CHARACTERS = {token[0] for token in _FAMILY}


def known_tokens_in(text: str) -> Iterator[tuple[str, int]]:
    """Those that `text` spells, with the character at which each begins.

    `</s>` after `<s>` ends struck-out HTML and is none.
    """
    for match in _pattern().finditer(text):
        if match[0] != "</s>" or not _OPENED.search(text, 0, match.start()):
            yield match[0], match.start()


def check_known_tokens(rows: Sequence[Row], table: TableName) -> list[Fault]:
    """A warning for every text that spells the control token of a well-known family."""
    rows = rows if isinstance(rows, JoinedRows) else JoinedRows(rows)
    if not any(first in rows.joined for first in _FIRST_CHARACTERS):
        return []
    faults = []
    for row in rows_with(_pattern(), rows):
        for field, text in text_fields(row, table):
            found = list(known_tokens_in(text))
            if found:
                token, place = found[0]
                more = f" and {len(found) - 1} more" if len(found) > 1 else ""
                seen = (
                    f"{escaped(token)} at character {place + 1}{more}; a control token of "
                    f"{_FAMILY[token]} models"
                )
                faults.append(Fault("TOK-002", row.file, row.line, field, seen))
    return faults


@cache
def _pattern() -> re.Pattern[str]:
    return re.compile(any_of(_FAMILY))
