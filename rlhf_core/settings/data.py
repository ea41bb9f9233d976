"""Settings of the data stage: where rows come from and how they are split."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from rlhf_core.data.rules import LENGTH_RULES, RULES, Action, allowed_actions
from rlhf_core.settings.base import Settings


class SupportDeskSettings(Settings):
    """Sizes of the embedded world; see `rlhf_core.world`."""

    demonstrations: int = Field(default=12_000, ge=10)
    """Prompts with one reply each."""

    rankings: int = Field(default=3_000, ge=10)
    """Prompts with K ranked replies each."""

    pairs: int = Field(default=500, ge=0)
    """Prompts with a chosen and a rejected reply each."""

    prompts: int = Field(default=6_000, ge=10)
    """Prompts without a reply, for PPO and the evaluation."""

    replies_per_ranking: int = Field(default=4, ge=2, le=9)
    """K of a ranking."""

    texts: int = Field(default=0, ge=0)
    """Plain texts, each a message and the reply to it."""


class OriginSettings(Settings):
    """Who wrote a table's responses, as its lineage shall tell."""

    by: Literal["people", "teacher"] = "people"
    """People, or a teacher model whose answers are imitated (distillation, as Alpaca's are)."""

    teacher: str | None = None
    """Name of the teacher model; needed where there is one."""

    licence: str | None = None
    """What the rows, or the teacher's terms, allow."""

    @model_validator(mode="after")
    def _a_teacher_has_a_name(self) -> Self:
        if (self.by == "teacher") != (self.teacher is not None):
            raise ValueError(
                f"origin.by={self.by!r} and origin.teacher={self.teacher!r} do not fit: name the "
                "teacher model where there is one, and nowhere else."
            )
        return self


class TableSettings(Settings):
    """One table of rows, from local files, a folder, or a data set on the hub."""

    source: str | Annotated[tuple[str, ...], Field(strict=False)]
    """A file (JSONL, or plain text with a row a line, as they are or packed by gzip or zstd;
    Parquet), several of them, a folder, or a hub id."""

    split: str = "train"
    """Split of a hub data set."""

    subset: str | None = None
    """Configuration name (`name`) or folder (`data_dir`) of a hub data set."""

    revision: str | None = None
    """Branch, tag or commit of a hub data set; resolved to a commit hash and recorded."""

    format: Literal[
        "auto", "prompt_response", "pairs", "rankings", "messages", "transcripts", "text", "prompts"
    ] = "auto"
    """Form of a row; `auto` tells it from the columns of the first row."""

    columns: dict[str, str] = Field(default_factory=dict)
    """Our column name to the file's, where they differ: `{prompt: question, response: answer}`."""

    opening_sentences: int = Field(default=1, ge=1)
    """Sentences of a plain text that become the prompt; the rest is the response."""

    limit: int | None = Field(default=None, ge=1)
    """Use the first rows only."""

    origin: OriginSettings | None = None
    """Who wrote the responses; kept with the raw files and shown by the lineage."""


class DataSettings(Settings):
    """Demonstrations, preferences, prompts and plain text, each row of which is checked."""

    world: SupportDeskSettings | None = None
    """Generate the embedded world instead of reading files."""

    demonstrations: TableSettings | None = None
    """Prompts with a response to imitate."""

    preferences: TableSettings | None = None
    """Prompts with responses in order of preference."""

    prompts: TableSettings | None = None
    """Prompts for PPO and the evaluation; those of the demonstrations when not given."""

    text: TableSettings | None = None
    """Plain text, as in pretraining: PPO's language-model term learns on it (`ppo.ptx`), and what
    is kept for validation tells what tuning cost."""

    split_by: str = "prompt"
    """Column whose equal values stay on one side of every split; plain text is split by itself."""

    validation_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of demonstrations, preferences and texts kept for validation."""

    evaluation_share: float = Field(default=0.1, gt=0, lt=0.9)
    """Share of prompts kept for the evaluation; no other stage sees them."""

    control_tokens: Literal["refuse", "literal"] = "refuse"
    """What happens to rows whose text spells a control token of the model's tokenizer, such as
    `</s>` or `<|im_start|>`: they are refused (rule TOK-001), or kept and read as plain characters.
    No text becomes a control token in either case."""

    long_prompts: Literal["drop", "cut", "refuse"] = "drop"
    """What happens to rows whose prompt is over `model.max_prompt_tokens`; `cut` takes away whole
    paragraphs at the prompt's end, or the oldest exchanges of a dialogue, and leaves the end of the
    template as it is."""

    long_responses: Literal["drop", "keep", "refuse"] = "drop"
    """What happens to rows whose response is over `model.max_response_tokens`; `keep` hands them on
    whole, for `sft.long_responses: cut`, and the other stages leave them out."""

    max_too_long_share: float = Field(default=0.5, ge=0, le=1)
    """Refuse a table of which more than this share is over the budgets and so dropped or cut."""

    max_set_aside_share: float = Field(default=0.01, ge=0, le=1)
    """Refuse a table of which more than this share was set aside for its faults; rows that are
    too long do not count."""

    rules: dict[str, Literal["refuse", "set_aside", "warn"]] = Field(default_factory=dict)
    """Rule id to what is done with a row that breaks it, where the default does not fit:
    `{TXT-001: set_aside}`. `rlhf_core.data.rules` lists them."""

    @field_validator("rules")
    @classmethod
    def _rules_are_known(cls, rules: dict[str, Action]) -> dict[str, Action]:
        for rule_id, action in rules.items():
            if rule_id in LENGTH_RULES or rule_id not in RULES:
                known = ", ".join(rule_id for rule_id in RULES if rule_id not in LENGTH_RULES)
                raise ValueError(f"there is no rule {rule_id!r} to change; there are {known}.")
            if action not in allowed_actions(rule_id):
                raise ValueError(
                    f"rule {rule_id} cannot be {action!r}: what breaks it cannot be trained on. "
                    f"Use one of {', '.join(allowed_actions(rule_id))}."
                )
        return rules

    @model_validator(mode="after")
    def _rows_come_from_somewhere(self) -> Self:
        tables = [self.demonstrations, self.preferences, self.prompts, self.text]
        if self.world is None and all(table is None for table in tables):
            raise ValueError(
                "data names no rows: give `demonstrations`, `preferences`, `prompts` or `text` a "
                "source, or set `world: {}` for the embedded one."
            )
        if self.world is not None and any(table is not None for table in tables):
            raise ValueError("data has both `world` and tables of its own: keep one of them.")
        return self
