"""What a reward model is taught: rankings of responses, and responses set beside other prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from rlhf_core.batches import Encoder, SharedPrompts, pad_left, pad_right
from rlhf_core.errors import DataError


@dataclass(frozen=True)
class Ranked:
    """Responses in one list, each with the number of the prompt that it follows.

    Those of one `comparison` are compared by their `ranks`; 1 is best.
    """

    prompts: list[list[int]]
    responses: list[list[int]]
    prompt_index: Tensor
    ranks: Tensor
    comparison: Tensor
    margins: Tensor
    """[comparisons]: by how much the better ones of each have to lead."""
    seen: Tensor | None = None
    """[members, comparisons]: which member of an ensemble learns from which; None: all from all."""

    def padded(self, pad_token_id: int) -> SharedPrompts:
        """The ids as tensors, every prompt once."""
        return SharedPrompts(
            *pad_left(self.prompts, pad_token_id),
            *pad_right(self.responses, pad_token_id),
            self.prompt_index,
        )


@dataclass(frozen=True)
class Rankings:
    """Token ids of prompts and of their ranked responses; rank 1 is best, equal ranks are ties.

    A pair is a ranking of two. Every response ends with EOS.
    """

    prompts: Sequence[Sequence[int]]
    responses: Sequence[Sequence[Sequence[int]]]
    ranks: Sequence[Sequence[int]]
    margins: Sequence[float] | None = None
    """By how much the better responses of each row have to lead; None: by nothing."""
    seen: Tensor | None = None
    """[members, rows]: which member of an ensemble learns from which; None: all from all."""

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def lengths(self) -> tuple[list[int], list[int]]:
        """Tokens of each row's prompt and longest response."""
        longest = [max(len(response) for response in row) for row in self.responses]
        return [len(prompt) for prompt in self.prompts], longest

    def ranked(self, rows: Sequence[int]) -> Ranked:
        """The responses of the given rows; those of one prompt are compared."""
        owner = torch.tensor([index for index, row in enumerate(rows) for _ in self.responses[row]])
        return Ranked(
            [list(self.prompts[row]) for row in rows],
            [list(response) for row in rows for response in self.responses[row]],
            owner,
            torch.tensor([rank for row in rows for rank in self.ranks[row]]),
            owner,
            torch.tensor([0.0 if self.margins is None else self.margins[row] for row in rows]),
            None if self.seen is None else self.seen[:, list(rows)],
        )

    def rows(self, chosen: Sequence[int]) -> "Rankings":
        """The given rows alone."""
        return Rankings(
            [self.prompts[row] for row in chosen],
            [self.responses[row] for row in chosen],
            [self.ranks[row] for row in chosen],
            None if self.margins is None else [self.margins[row] for row in chosen],
            None if self.seen is None else self.seen[:, list(chosen)],
        )


@dataclass(frozen=True)
class Mismatches:
    """Token ids of prompts with the response that was written for each.

    Neighbours in a batch form groups in which every response follows every prompt; its own one has
    to score highest. As nothing else differs between what is compared, all that can be learnt is
    what in a response fits its prompt.
    """

    prompts: Sequence[Sequence[int]]
    responses: Sequence[Sequence[int]]
    group_size: int

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def lengths(self) -> tuple[list[int], list[int]]:
        """Tokens of each row's prompt and response."""
        return [len(row) for row in self.prompts], [len(row) for row in self.responses]

    def ranked(self, rows: Sequence[int]) -> Ranked:
        """Each response of a group after each of its prompts, the same response being compared."""
        size = len(rows)
        groups = max(1, size // self.group_size)
        members = [list(range(size))[first::groups] for first in range(groups)]
        pairs = [(own, other) for group in members for own in group for other in group]
        return Ranked(
            [list(self.prompts[row]) for row in rows],
            [list(self.responses[rows[own]]) for own, _ in pairs],
            torch.tensor([other for _, other in pairs]),
            torch.tensor([1 if own == other else 2 for own, other in pairs]),
            torch.tensor([own for own, _ in pairs]),
            torch.zeros(size),
        )


def mismatches(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    rows: int,
    group_size: int,
    seed: int,
) -> Mismatches | None:
    """At most `rows` demonstrations, drawn from the seed; None where there are fewer than two."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(prompts), generator=generator)[:rows].tolist()
    if len(order) < 2:
        return None
    return Mismatches(
        [prompts[row] for row in order], [responses[row] for row in order], group_size
    )


def drawn_rows(rows: int, *, members: int, share: float, seed: int) -> Tensor:
    """[members, rows]: True at the rows that each member learns from, at least one for each."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(members, rows, generator=generator).argsort(dim=1)
    seen = torch.zeros(members, rows, dtype=torch.bool)
    return seen.scatter(1, order[:, : max(1, round(share * rows))], value=True)


def encoded_rankings(encoder: Encoder, table: pd.DataFrame) -> tuple[Rankings, pd.DataFrame]:
    """Token ids of the rows that fit the budgets, and those rows; DataError where none does."""
    prompts = encoder.prompts(list(table.prompt))
    counts = [len(responses) for responses in table.responses]
    flat = encoder.responses(
        [prompt for prompt, count in zip(table.prompt, counts, strict=True) for _ in range(count)],
        [response for responses in table.responses for response in responses],
    )
    rows = iter(flat)
    responses = [[next(rows) for _ in range(count)] for count in counts]
    fitting = encoder.fitting(prompts, [max(group, key=len) for group in responses])
    if not fitting:
        raise DataError(
            f"None of {len(table)} preferences fits model.max_prompt_tokens="
            f"{encoder.settings.max_prompt_tokens} and model.max_response_tokens="
            f"{encoder.settings.max_response_tokens}: raise them, or give shorter rows."
        )
    kept = table.iloc[fitting].reset_index(drop=True)
    rankings = Rankings(
        [prompts[row] for row in fitting],
        [responses[row] for row in fitting],
        [list(ranks) for ranks in kept.ranks],
        [0.0 if margin is None else margin for margin in kept.margin],
    )
    return rankings, kept
