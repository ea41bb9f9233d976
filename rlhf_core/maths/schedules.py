"""Learning rates over training, as shares of their peak."""

import math


def cosine_with_warmup(step: int, *, steps: int, warmup_steps: int, final_share: float) -> float:
    """Share of the peak at optimizer step `step`, counted from 0.

    Rises linearly over the warm-up, then falls along half a cosine from 1 to `final_share` at
    the last step (arXiv:2203.02155, C.1: to 10 %).
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = _progress_after(warmup_steps, step, steps)
    return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * progress))


def linear_with_warmup(step: int, *, steps: int, warmup_steps: int, final_share: float) -> float:
    """Share of the peak at `step`: linear from 1 after the warm-up to `final_share` at the last."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return 1 - (1 - final_share) * _progress_after(warmup_steps, step, steps)


def constant_with_warmup(step: int, *, warmup_steps: int) -> float:
    """Share of the peak at `step`: 1 after the warm-up."""
    return (step + 1) / (warmup_steps + 1) if step < warmup_steps else 1.0


def _progress_after(warmup_steps: int, step: int, steps: int) -> float:
    """0 at the first step after the warm-up, 1 at the last of all."""
    return min((step - warmup_steps) / max(steps - 1 - warmup_steps, 1), 1.0)


def warmup_from_a_tenth(update: int, *, warmup_updates: int) -> float:
    """Share of the peak at `update`, counted from 0: .10, .19, ... to 1 (arXiv:2203.02155, C.4)."""
    if update >= warmup_updates:
        return 1.0
    return 0.1 + 0.9 * update / warmup_updates


def cosine_to_a_tenth(update: int, *, updates: int) -> float:
    """Share of the peak at `update`, counted from 0: half a cosine from 1 to .1 at the last one."""
    return cosine_with_warmup(update, steps=updates, warmup_steps=0, final_share=0.1)


def adam_epsilon_outside(epsilon: float, *, beta2: float, step: int) -> float:
    """The epsilon with which torch's Adam takes TensorFlow's step number `step`, from 1 (P12).

    TensorFlow adds epsilon to the root of the biased second moment, torch to that of the corrected
    one, which is larger by 1 / sqrt(1 - beta2^step): so must epsilon be.
    """
    return epsilon / math.sqrt(1 - beta2**step)


def linear_to_zero(update: int, *, updates: int) -> float:
    """Share of the peak at `update`, counted from 0: 1 - update / updates (N+, Stiennon)."""
    return 1 - update / updates
