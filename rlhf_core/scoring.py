"""Reading the reward model: one score per response, at its end token."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from rlhf_core.batches import Sequences, SpecialTokens, join
from rlhf_core.maths.masking import last_index
from rlhf_core.threads import side_by_side


def scores_at_end(
    reward_model: nn.Module, sequences: Sequences, *, end_token_ids: Sequence[int]
) -> Tensor:
    """The reward model's number at each response's last real token: [batch] (detail R4)."""
    response_ids = with_one_end(sequences.response_ids, sequences.response_mask, end_token_ids)
    sequences = replace(sequences, response_ids=response_ids)
    per_column: Tensor = reward_model(sequences.input_ids, sequences.attention_mask)
    return last_of(per_column[:, sequences.prompt_ids.shape[1] :], sequences.response_mask)


def with_one_end(
    response_ids: Tensor, response_mask: Tensor, end_token_ids: Sequence[int]
) -> Tensor:
    """The ids with every end token replaced by the first of `end_token_ids`.

    Where the policy may end in several ways, the one that the reward model was trained on stands
    for all of them.
    """
    ends = torch.tensor(list(end_token_ids), device=response_ids.device)
    is_end = torch.isin(response_ids, ends) & response_mask
    return response_ids.masked_fill(is_end, end_token_ids[0])


def last_of(per_token: Tensor, response_mask: Tensor) -> Tensor:
    """The number at each response's last real token: [batch, response] -> [batch].

    The column comes from the response mask, never from a search for padding, so a prompt that holds
    an end token cannot mislead it (details R4 to R6).
    """
    return per_token.gather(1, last_index(response_mask).unsqueeze(1)).squeeze(1)


@torch.no_grad()
def score_in_batches(
    reward_model: nn.Module,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    special: SpecialTokens,
    batch_size: int,
) -> Tensor:
    """Scores of any number of responses, on the CPU: [responses].

    Rows of similar length are scored together; the order of the result is that of the input.
    """
    device = next(reward_model.parameters()).device
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]) + len(responses[row]))
    scores = torch.zeros(len(prompts))

    def score(rows: list[int]) -> Tensor:
        batch = join(
            [prompts[row] for row in rows], [responses[row] for row in rows], special.pad
        ).to(device)
        return scores_at_end(reward_model, batch, end_token_ids=special.end).cpu()

    parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    for rows, found in zip(parts, side_by_side(score, parts, device=device), strict=True):
        scores[torch.tensor(rows)] = found
    return scores
