"""Where the zero of the scores lies, and their scale (section 2.4)."""

from typing import NamedTuple

from rlhf_core.maths.shapes import PerSequence, Scalar


class Affine(NamedTuple):
    """score' = gain * score + bias."""

    gain: Scalar
    bias: Scalar


def centred(scores: PerSequence) -> Affine:
    """To mean 0, as Stiennon, InstructGPT and N+ do; differences of scores stay as they are."""
    return Affine(scores.new_ones(()), -scores.mean())


def standardized(scores: PerSequence) -> Affine:
    """To mean 0 and deviation 1 (biased), as Ziegler does: gain = 1/std, bias = -mean/std."""
    gain = 1 / scores.std(correction=0)
    return Affine(gain, -scores.mean() * gain)
