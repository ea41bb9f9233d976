"""Conversations and texts as token ids, by the template and the vocabulary of a tokenizer."""

from dataclasses import dataclass, field
from typing import cast

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from rlhf_core.chat_splice import ChatSplice
from rlhf_core.chat_template import ChatTemplate
from rlhf_core.data.control_tokens import control_tokens
from rlhf_core.errors import ModelError
from rlhf_core.literal_text import LiteralText
from rlhf_core.settings.model import ModelSettings


@dataclass(frozen=True)
class ChatCodec(ChatSplice):
    """Encodes conversations by the template that `tokenizer` carries."""

    tokenizer: PreTrainedTokenizerBase = field(kw_only=True)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "ChatCodec | None":
        """By the template that the tokenizer carries; None where it carries none."""
        text = template_of(tokenizer)
        if text is None:
            return None
        template = ChatTemplate(text, _special(tokenizer))
        return cls(template, literal_text(tokenizer), tokenizer=tokenizer)


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


def _special(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    named = tokenizer.special_tokens_map
    return {name: str(of) for name, of in named.items() if name != "additional_special_tokens"}
