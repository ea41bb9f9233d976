"""Demonstrations from the data's tables to token ids within the budgets."""

from dataclasses import dataclass

import pandas as pd

from rlhf_core.batches import Encoder
from rlhf_core.data.dialogues import messages_of
from rlhf_core.errors import DataError, ModelError
from rlhf_core.settings.sft import SftSettings
from rlhf_core.training.demonstrations import Demonstrations
from rlhf_core.truncation import Truncation, check_truncation, fitted


@dataclass(frozen=True)
class EncodedRows:
    """The rows that SFT reads of one split, as ids and as they stand in the table."""

    demonstrations: Demonstrations
    table: pd.DataFrame
    truncation: Truncation


def encoded_rows(encoder: Encoder, table: pd.DataFrame, settings: SftSettings) -> EncodedRows:
    """The rows that fit, or are cut to fit where the recipe says so; DataError for too few."""
    prompts = encoder.prompts(list(table.prompt))
    responses = encoder.responses(list(table.prompt), list(table.response))
    found = fitted(prompts, responses, encoder.settings, settings)
    check_truncation(found.truncation, encoder.settings, settings)
    kept = table.iloc[list(found.rows)].reset_index(drop=True)
    demonstrations = Demonstrations([prompts[row] for row in found.rows], found.responses)
    if settings.loss_on == "assistant":
        demonstrations = with_earlier_turns(encoder, demonstrations, kept)
    return EncodedRows(demonstrations, kept, found.truncation)


def with_earlier_turns(
    encoder: Encoder, rows: Demonstrations, table: pd.DataFrame
) -> Demonstrations:
    """The same rows; what the assistant said in earlier turns of a prompt is learnt as well."""
    if encoder.chat is None:
        raise ModelError(
            "sft.loss_on='assistant' needs a chat template, which says where the assistant's turns "
            "are: choose a base model whose tokenizer has one, give model.chat_template, or set "
            "sft.loss_on to 'response'."
        )
    prompts, responses, learnt = [], [], []
    for ids, response, text in zip(rows.prompts, rows.responses, table.prompt, strict=True):
        said = encoder.chat.said_before(messages_of(text))
        first = said.index(True) if any(said) else len(said)
        prompts.append(ids[:first])
        responses.append([*ids[first:], *response])
        learnt.append([*said[first:], *[True] * len(response)])
    return Demonstrations(prompts, responses, learnt)


def encoded_demonstrations(encoder: Encoder, table: pd.DataFrame) -> Demonstrations:
    """Token ids of the rows that fit the budgets; raises DataError where none does."""
    prompts = encoder.prompts(list(table.prompt))
    responses = encoder.responses(list(table.prompt), list(table.response))
    fitting = encoder.fitting(prompts, responses)
    if not fitting:
        raise DataError(
            f"None of {len(table)} demonstrations fits model.max_prompt_tokens="
            f"{encoder.settings.max_prompt_tokens} and model.max_response_tokens="
            f"{encoder.settings.max_response_tokens}: raise them, or give shorter rows."
        )
    return Demonstrations([prompts[row] for row in fitting], [responses[row] for row in fitting])
