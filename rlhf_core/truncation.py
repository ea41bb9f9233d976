"""What the token budgets do to demonstrations: rows dropped, responses cut, and the limit of both.

A response that is cut ends without an end token, so that the policy does not learn to end there.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rlhf_core.errors import DataError
from rlhf_core.settings.model import ModelSettings
from rlhf_core.settings.sft import SftSettings


@dataclass(frozen=True)
class Truncation:
    """Counts over the rows of one split, as they came to SFT."""

    rows: int
    tokens: int
    """Of prompts and responses together, end tokens included."""

    prompts_too_long: int
    responses_too_long: int
    rows_dropped: int
    responses_cut: int
    tokens_lost: int
    """Tokens of dropped rows, and those that were cut off."""

    rows_without_labels: int
    """Rows that are kept and have no token to learn."""

    longest_prompt: int
    longest_response: int

    @property
    def share(self) -> float:
        """Share of rows that are not trained on as they are."""
        return (self.rows_dropped + self.responses_cut) / self.rows if self.rows else 0.0

    def document(self) -> dict[str, float]:
        """All counts, and the share."""
        return {**asdict(self), "share": round(self.share, 6)}


@dataclass(frozen=True)
class Fitted:
    """Numbers of the rows that stay, their responses within the budget, and the counts."""

    rows: Sequence[int]
    responses: Sequence[Sequence[int]]
    truncation: Truncation


def fitted(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    model: ModelSettings,
    settings: SftSettings,
) -> Fitted:
    """The rows within both budgets; over-long responses are dropped with their row, or cut."""
    cut_responses = settings.long_responses == "cut"
    kept, lost, cut = [], 0, 0
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        too_long = len(response) - model.max_response_tokens
        if len(prompt) > model.max_prompt_tokens or (too_long > 0 and not cut_responses):
            lost += len(prompt) + len(response)
            continue
        lost += max(too_long, 0)
        cut += too_long > 0
        kept.append(row)
    within = [responses[row][: model.max_response_tokens] for row in kept]
    lengths = [len(row) for row in prompts], [len(row) for row in responses]
    return Fitted(
        kept,
        within,
        Truncation(
            rows=len(prompts),
            tokens=sum(map(sum, lengths)),
            prompts_too_long=sum(length > model.max_prompt_tokens for length in lengths[0]),
            responses_too_long=sum(length > model.max_response_tokens for length in lengths[1]),
            rows_dropped=len(prompts) - len(kept),
            responses_cut=cut,
            tokens_lost=lost,
            rows_without_labels=sum(not response for response in within),
            longest_prompt=max(lengths[0], default=0),
            longest_response=max(lengths[1], default=0),
        ),
    )


def check_truncation(truncation: Truncation, model: ModelSettings, settings: SftSettings) -> None:
    """Raise DataError where no row is left, or more are dropped or cut than the recipe allows."""
    budgets = (
        f"model.max_prompt_tokens={model.max_prompt_tokens} and "
        f"model.max_response_tokens={model.max_response_tokens}"
    )
    if truncation.rows_dropped == truncation.rows:
        raise DataError(
            f"None of {truncation.rows} demonstrations fits {budgets}: raise them, or give shorter "
            "rows."
        )
    if truncation.share > settings.max_truncated_share:
        enough = -(-100 * (truncation.rows_dropped + truncation.responses_cut) // truncation.rows)
        raise DataError(
            f"{truncation.share:.1%} of {truncation.rows:,} demonstrations do not fit {budgets} "
            f"({truncation.prompts_too_long:,} prompts and {truncation.responses_too_long:,} "
            f"responses are longer, the longest {truncation.longest_prompt:,} and "
            f"{truncation.longest_response:,} tokens), more than "
            f"sft.max_truncated_share={settings.max_truncated_share:.1%}. Raise the budgets, or "
            f"accept it: `--set sft.max_truncated_share={enough / 100}`."
        )
