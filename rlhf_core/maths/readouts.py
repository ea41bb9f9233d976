"""Read-outs: from one number per response token to one score per response."""

from torch import Tensor

from rlhf_core.maths.masking import last_index
from rlhf_core.maths.shapes import PerSequence, PerToken, SequenceMask, TokenMask


def at_last(per_token: PerToken, response_mask: TokenMask) -> PerSequence:
    """The number at each response's last real token, the end token where it ended.

    The column comes from the response mask, never from a search for padding, so a prompt that holds
    an end token cannot mislead it (details R4 to R6).
    """
    return _at(per_token, last_index(response_mask))


def before_end(per_token: PerToken, response_mask: TokenMask, ended: SequenceMask) -> PerSequence:
    """The number at each response's last token that is no end token.

    A response of nothing but its end token is read there.
    """
    return _at(per_token, (last_index(response_mask) - ended.long()).clamp(min=0))


def over_tokens(per_token: PerToken, response_mask: TokenMask) -> PerSequence:
    """The mean over each response's tokens, the end token among them.

    Where the numbers are linear in the hidden states it is that of the mean hidden state.
    """
    sums = per_token.masked_fill(~response_mask, 0.0).sum(dim=1)
    return sums / response_mask.sum(dim=1).clamp(min=1)


def _at(per_token: PerToken, index: Tensor) -> PerSequence:
    return per_token.gather(1, index.unsqueeze(1)).squeeze(1)
