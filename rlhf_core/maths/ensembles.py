"""One score from the scores of an ensemble's members, and how far they part (arXiv:2310.02743)."""

from jaxtyping import Float
from torch import Tensor

from rlhf_core.maths.shapes import PerSequence

MemberScores = Float[Tensor, "members batch"]


def mean_score(members: MemberScores) -> PerSequence:
    """What the members say in the mean."""
    return members.mean(dim=0)


def least_score(members: MemberScores) -> PerSequence:
    """What the most sceptical member says: worst-case optimization."""
    return members.amin(dim=0)


def cautious_score(members: MemberScores, *, deviations: float) -> PerSequence:
    """The mean less so many deviations over the members (biased): doubt is paid for."""
    return members.mean(dim=0) - deviations * disagreement(members)


def disagreement(members: MemberScores) -> PerSequence:
    """The deviation (biased) of each response's scores over the members."""
    return members.std(dim=0, correction=0)
