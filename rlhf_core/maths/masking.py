"""Masks, positions and moments over the tokens that count."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rlhf_core.maths.shapes import PerToken, Scalar, SequenceMask, TokenIds, TokenMask


def position_ids(attention_mask: Bool[Tensor, "batch sequence"]) -> Int[Tensor, "batch sequence"]:
    """Number of real tokens before each column, so that padding shifts no position (detail R8)."""
    mask = attention_mask.long()
    return mask.cumsum(dim=1) - mask


def until_end(response_ids: TokenIds, eos_token_ids: Int[Tensor, "eos"]) -> TokenMask:
    """True up to and including each row's first end-of-sequence token; all True without one."""
    is_eos = torch.isin(response_ids, eos_token_ids)
    ends_before = is_eos.long().cumsum(dim=1) - is_eos.long()
    return ends_before == 0


def has_ended(
    response_ids: TokenIds, eos_token_ids: Int[Tensor, "eos"], response_mask: TokenMask
) -> SequenceMask:
    """Whether a row holds an end-of-sequence token that counts."""
    return (torch.isin(response_ids, eos_token_ids) & response_mask).any(dim=1)


def fill_after_end(response_ids: TokenIds, response_mask: TokenMask, pad_token_id: int) -> TokenIds:
    """Replace everything outside the mask by padding (algorithm step 4)."""
    return response_ids.masked_fill(~response_mask, pad_token_id)


def last_index(response_mask: TokenMask) -> Int[Tensor, "batch"]:
    """Index of each row's last token that counts; -1 for a row without any."""
    columns = torch.arange(response_mask.shape[1], device=response_mask.device)
    return torch.where(response_mask, columns, -1).amax(dim=1)


def value_mask_after_end(response_mask: TokenMask) -> TokenMask:
    """The mask and one column more where there is room: convention B of the score's place."""
    first = torch.ones_like(response_mask[:, :1])
    return response_mask | torch.cat([first, response_mask[:, :-1]], dim=1)


def masked_mean(values: PerToken, mask: TokenMask) -> Scalar:
    """Mean over the entries where `mask` is True; 0 where there is none.

    An entry outside the mask has no effect, not even when it is infinite or NaN.
    """
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def masked_variance(values: PerToken, mask: TokenMask) -> Scalar:
    """Biased variance (divided by n, as in N+) over the entries where `mask` is True."""
    return masked_mean((values - masked_mean(values, mask)).square(), mask)


def whiten(values: PerToken, mask: TokenMask, *, mean: Scalar, variance: Scalar) -> PerToken:
    """Shift and scale to mean 0 and variance 1; entries outside the mask become exactly 0.

    The moments are given, so that they can be those of all processes (section 3.6).
    """
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return whitened.masked_fill(~mask, 0.0)


def rescale(values: PerToken, mask: TokenMask, *, mean: Scalar, variance: Scalar) -> PerToken:
    """Scale to variance 1 around an unchanged mean; entries outside the mask become exactly 0.

    On rewards this is a length penalty or bonus (vector WLEN), hence not a default.
    """
    rescaled = (values - mean) * torch.rsqrt(variance + 1e-8) + mean
    return rescaled.masked_fill(~mask, 0.0)
