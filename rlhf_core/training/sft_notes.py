"""Sentences about the course of SFT: what went wrong in it, and what mends that."""

from collections.abc import Mapping

LOOPING_SHARE = 0.25
"""Samples repeat themselves like a broken record where this share of their 4-grams stood before in
the same response, beyond what is usual in the demonstrations."""

UNENDED_SHARE = 0.5
"""Fewer samples than this that end by themselves are said: the policy has not learnt to stop."""


def overfitting_note(
    best_loss: float, best_epoch: float, loss: float, epoch: float, *, keeps_best: bool
) -> str:
    """What is said once, when the validation loss is first worse than it was."""
    kept = "the weights of the lower loss are kept" if keeps_best else "the last weights are kept"
    return (
        f"over-fitting: the validation loss turned, from {best_loss:.4f} after {best_epoch:.3g} "
        f"epochs to {loss:.4f} after {epoch:.3g}; {kept} (sft.selection). Fewer sft.epochs or a "
        "lower sft.learning_rate avoid it."
    )


def sample_notes(
    metrics: Mapping[str, float], *, epoch: int, max_tokens: int, usual_repetition: float
) -> list[str]:
    """What is to be said of an epoch's samples; nothing where they are as they should be."""
    notes = []
    if metrics["repeated_4grams"] > usual_repetition + LOOPING_SHARE:
        notes.append(
            f"samples after epoch {epoch} repeat themselves like a broken record: "
            f"{metrics['repeated_4grams']:.0%} of their 4-grams stood before in the same response, "
            f"{usual_repetition:.0%} in the demonstrations. Look at samples.jsonl, and for "
            "repeated or cut demonstrations."
        )
    if metrics["ended_share"] < UNENDED_SHARE:
        notes.append(
            f"only {metrics['ended_share']:.0%} of the samples after epoch {epoch} end within "
            f"{max_tokens} tokens: the policy has not learnt to stop. Train longer, or raise "
            "model.max_response_tokens."
        )
    return notes
