r"""Prompts that are over their budget, cut so that their end survives (detail S3).

What follows the prompt in `model.prompt_template` is never cut. Of a dialogue the oldest exchanges
go first, whole, and a system text before them stays; of any other prompt the last paragraphs go,
and where one paragraph is left, its last characters.
"""

from collections.abc import Callable

from rlhf_core.data.dialogues import ASSISTANT, HUMAN

Fits = Callable[[str], bool]


def cut_prompt(prompt: str, fits: Fits) -> str | None:
    """The longest such beginning of `prompt` that `fits`; None where nothing of it does."""
    if fits(prompt):
        return prompt
    if prompt.endswith(ASSISTANT) and HUMAN in prompt:
        return _cut_dialogue(prompt, fits)
    return _cut_text(prompt, fits)


def _cut_dialogue(prompt: str, fits: Fits) -> str | None:
    """Without the oldest exchanges, and in the last one without the end of what was asked."""
    opening, *asked = prompt.split(HUMAN)
    for first in range(1, len(asked)):
        shorter = opening + "".join(HUMAN + turn for turn in asked[first:])
        if fits(shorter):
            return shorter
    question = asked[-1].removesuffix(ASSISTANT)
    kept = _cut_text(question, lambda text: fits(opening + HUMAN + text + ASSISTANT))
    return None if kept is None else opening + HUMAN + kept + ASSISTANT


def _cut_text(text: str, fits: Fits) -> str | None:
    while "\n" in text.strip():
        text = text[: text.rstrip().rindex("\n")].rstrip()
        if fits(text):
            return text
    low, high = 0, len(text)  # text[:low] fits or is empty, text[:high] does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(text[:middle]) else (low, middle)
    return text[:low].rstrip() or None
