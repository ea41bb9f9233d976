"""Direct preference optimization: a policy as the reward model of its own distance."""

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from rlhf_core.maths.losses import better_worse_pairs
from rlhf_core.maths.shapes import PerSequence


def implicit_rewards(
    logprobs: PerSequence, ref_logprobs: PerSequence, *, kl_coef: float
) -> PerSequence:
    """kl_coef * log(policy / reference) of whole responses (arXiv:2305.18290, eq. 5).

    It is the reward, up to a constant of the prompt, whose best policy at this weight of the KL the
    policy is. `kl_coef` is the paper's beta.
    """
    return kl_coef * (logprobs - ref_logprobs)  # log(policy / reference)


def dpo_loss(
    rewards: PerSequence,
    ranks: Int[Tensor, "batch"],
    prompt_index: Int[Tensor, "batch"],
    *,
    label_smoothing: float,
) -> Float[Tensor, "prompts"]:
    """Per prompt, the mean over its pairs of -log sigmoid(better - worse) (eq. 7 of the paper).

    `rewards` are the implicit ones of all ranked responses. With smoothing a label is taken to be
    swapped with that probability: (1 - s) softplus(-d) + s softplus(d). Dividing by the pairs of a
    prompt makes every prompt count once, however many of its responses are ranked.
    """
    pairs = better_worse_pairs(ranks, prompt_index)
    lead = rewards[pairs.better] - rewards[pairs.worse]
    losses = (1 - label_smoothing) * softplus(-lead) + label_smoothing * softplus(lead)
    prompts = int(prompt_index.max()) + 1
    zeros = losses.new_zeros(prompts)
    of_pair = prompt_index[pairs.better]
    counts = zeros.index_add(0, of_pair, losses.new_ones(len(losses)))
    return zeros.index_add(0, of_pair, losses) / counts.clamp(min=1)
