"""How much a response repeats itself."""

import torch

from rlhf_core.maths.shapes import PerSequence, TokenIds, TokenMask

_MIX = 1_000_003


def unique_ngram_share(
    response_ids: TokenIds, response_mask: TokenMask, length: int
) -> PerSequence:
    """Share of each response's runs of `length` tokens that are not the same as an earlier one.

    1 for a response too short to hold two; masks are True up to the last token that counts.
    """
    width = response_ids.shape[1] - length + 1
    if width < 2:
        return torch.ones(len(response_ids), device=response_ids.device)
    keys = torch.zeros_like(response_ids[:, :width])
    for offset in range(length):  # two runs share a key once in 2^64, through overflow
        keys = keys * _MIX + response_ids[:, offset : offset + width] + 1
    counts = response_mask[:, length - 1 :]
    lowest = torch.iinfo(keys.dtype).min
    keys, order = keys.masked_fill(~counts, lowest).sort(dim=1)
    is_first = torch.ones_like(counts)
    is_first[:, 1:] = keys[:, 1:] != keys[:, :-1]
    unique = (is_first & counts.gather(1, order)).sum(dim=1)
    return torch.where(counts.any(dim=1), unique / counts.sum(dim=1).clamp(min=1), 1.0)
