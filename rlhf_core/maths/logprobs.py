"""Log-probabilities and entropy of a language model's next-token distribution."""

from jaxtyping import Float, Int
from torch import Tensor

Logits = Float[Tensor, "batch response vocabulary"]


def log_distribution(logits: Logits, *, temperature: float) -> Logits:
    """log softmax(logits / temperature) in float32 (details P2 and P21)."""
    return (logits.float() / temperature).log_softmax(dim=-1)


def taken_logprobs(
    log_probs: Logits, response_ids: Int[Tensor, "batch response"]
) -> Float[Tensor, "batch response"]:
    """The log-probability of each token that was taken."""
    return log_probs.gather(-1, response_ids.unsqueeze(-1)).squeeze(-1)


def entropy(log_probs: Logits) -> Float[Tensor, "batch response"]:
    """Entropy in nats of each token's distribution."""
    return -(log_probs.exp() * log_probs).sum(dim=-1)


def surprisal_variance(log_probs: Logits) -> Float[Tensor, "batch response"]:
    """Variance of -log p of a token drawn from each distribution, whose mean is the entropy."""
    squares = (log_probs.exp() * log_probs * log_probs).sum(dim=-1)
    return (squares - entropy(log_probs).square()).clamp(min=0)


def response_columns(
    per_column: Float[Tensor, "batch sequence *rest"], response_length: int
) -> Float[Tensor, "batch response *rest"]:
    """Outputs at the columns from which the response tokens are predicted: [P-1 : P+T-1].

    The same slice gives the value of the state before each token is emitted (section 3.1).
    """
    return per_column[:, -response_length - 1 : -1]
