"""The tensor shapes that the maths speaks of.

`batch` counts sequences; `response` counts response tokens, padded on the right; `sequence` counts
all columns of prompt and response; `vocabulary` counts token ids. A mask is True where the token
counts.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

PerToken = Float[Tensor, "batch response"]
PerSequence = Float[Tensor, "batch"]
TokenIds = Int[Tensor, "batch response"]
TokenMask = Bool[Tensor, "batch response"]
SequenceMask = Bool[Tensor, "batch"]
Scalar = Float[Tensor, ""]
