"""Settings of the base model and of how text becomes its token ids."""

from typing import Self

from pydantic import Field, field_validator, model_validator

from rlhf_core.settings.base import Settings


class ScratchModelSettings(Settings):
    """A Llama-architecture model with random weights, and a tokenizer trained on the corpus."""

    hidden_size: int = Field(default=128, ge=8)
    """Width of the residual stream."""

    layers: int = Field(default=2, ge=1)
    """Transformer blocks."""

    heads: int = Field(default=4, ge=1)
    """Attention heads; hidden_size must be a multiple."""

    intermediate_size: int = Field(default=344, ge=8)
    """Width of the gated MLP."""

    initializer_range: float = Field(default=0.06, gt=0)
    """Deviation of the initial weights; the usual 0.02 suits a width of 2,500, and a small model
    learns to copy from the prompt several times faster from about 0.7 / sqrt(hidden_size)."""

    vocabulary_size: int | None = Field(default=None, ge=300)
    """Tokens of a byte-level byte-pair tokenizer; without it, every word of the corpus is one."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size={self.hidden_size} is not a multiple of 2 * heads={2 * self.heads} "
                "(rotary embeddings need an even head size): choose one that is."
            )
        return self


class ModelSettings(Settings):
    """The model that SFT starts from, and the template that all stages share."""

    base: str | None = None
    """Hub id or local folder in the hub's format; safetensors only, foreign code is never run."""

    revision: str | None = None
    """Branch, tag or commit of a hub id; resolved to a commit hash and recorded."""

    scratch: ScratchModelSettings | None = None
    """Make the base model from nothing instead of loading one."""

    prompt_template: str = "{prompt}"
    """What the model reads before it answers; `{prompt}` stands for the row's prompt."""

    response_prefix: str = " "
    """Put before every response unless it begins with it already: most tokenizers join a space
    to the word after it, so a prompt ends without one and a response begins with one."""

    chat_template: str = "auto"
    """How conversations become text. `auto`: by the template of the base model's tokenizer where it
    has one and `prompt_template` is not set; `none`: as transcripts, by `prompt_template`; else the
    text of a Jinja template, which replaces the tokenizer's. With a template, a plain prompt is a
    user's turn and a transcript's turns are those of a conversation."""

    max_prompt_tokens: int = Field(default=512, ge=1)
    """Longest prompt, template included; see `long_prompts` of the data section."""

    max_response_tokens: int = Field(default=128, ge=2)
    """Longest response, the end-of-sequence token included."""

    @field_validator("prompt_template")
    @classmethod
    def _template_names_the_prompt(cls, template: str) -> str:
        if template.count("{prompt}") != 1:
            raise ValueError("prompt_template must contain {prompt} exactly once.")
        if template.endswith(" "):
            raise ValueError(
                "prompt_template ends in a space, which most tokenizers join to the word after it: "
                "end it without one and keep response_prefix ' '."
            )
        return template

    @field_validator("chat_template")
    @classmethod
    def _template_is_jinja(cls, template: str) -> str:
        if template not in ("auto", "none") and "{%" not in template and "{{" not in template:
            raise ValueError(
                f"chat_template={template[:40]!r} is neither 'auto' nor 'none' nor a Jinja text: "
                "give the template itself, as a block of text."
            )
        return template

    @property
    def own_chat_template(self) -> str | None:
        """The template that the recipe gives, if it gives one."""
        return None if self.chat_template in ("auto", "none") else self.chat_template

    @property
    def takes_tokenizers_template(self) -> bool:
        """Whether the template that the base model's tokenizer carries is used."""
        return self.chat_template == "auto" and self.prompt_template == "{prompt}"

    @model_validator(mode="after")
    def _one_template(self) -> Self:
        if self.own_chat_template is None:
            return self
        if self.prompt_template != "{prompt}":
            raise ValueError(
                "model gives both chat_template and prompt_template: a conversation is rendered by "
                "one of them; remove the other."
            )
        if self.scratch is not None:
            raise ValueError(
                "model.chat_template needs a tokenizer with control tokens, and one made from "
                "nothing has none: give model.base, or use prompt_template."
            )
        return self

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.base is None) == (self.scratch is None):
            raise ValueError(
                "model needs exactly one of `base` (a hub id or folder) and `scratch` (sizes of a "
                "new model)."
            )
        if self.revision is not None and self.base is None:
            raise ValueError("model.revision names a revision of `base`, which is not given.")
        return self
