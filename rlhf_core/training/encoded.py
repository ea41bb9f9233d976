"""Demonstrations from the data's tables to token ids within the budgets."""

from dataclasses import dataclass

import pandas as pd

from rlhf_core.batches import Encoder
from rlhf_core.errors import DataError
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
    return EncodedRows(
        Demonstrations([prompts[row] for row in found.rows], found.responses),
        table.iloc[list(found.rows)].reset_index(drop=True),
        found.truncation,
    )


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
