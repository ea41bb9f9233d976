"""Samples side by side: what a person should read before believing a number."""

from collections.abc import Mapping

from rlhf_core.evaluation.marks import named
from rlhf_core.evaluation.records import Sample, SampledAnswer, samples
from rlhf_core.evaluation.results import Results, SetName
from rlhf_core.evaluation.wording import label
from rlhf_core.pages.html import text
from rlhf_core.pages.wording import decimal

SIDE_BY_SIDE: tuple[SetName, ...] = ("sft", "ppo", "best_of_n", "demonstrations")
"""Sets shown at once; the others are in samples.jsonl."""


def samples_section(results: Results) -> str:
    """The first prompts, each with the answers to it."""
    shown = samples(results, results.settings.shown_samples)
    return (
        "<h2>Samples side by side</h2>"
        f'<p class="soft">The first {len(shown)} held-out prompts, not chosen by hand. '
        "Greedy answers are in <code>samples.jsonl</code>.</p>"
        + "".join(_sample(sample, results.settings.best_of_n) for sample in shown)
    )


def _sample(sample: Sample, n: int) -> str:
    answers: Mapping[SetName, SampledAnswer] = sample["answers"]
    shown = [name for name in SIDE_BY_SIDE if name in answers]
    cells = [
        _answer(name, answers[name], n, wide=index == len(shown) - 1 and index % 2 == 0)
        for index, name in enumerate(shown)
    ]
    return (
        f'<article><header><div class="text">{text(sample["prompt"])}</div></header>'
        f'<div class="answers">{"".join(cells)}</div></article>'
    )


def _answer(name: SetName, answer: SampledAnswer, n: int, *, wide: bool) -> str:
    facts = [] if answer["gold"] is None else [f"gold {decimal(answer['gold'])}"]
    facts.append(f"score {decimal(answer['score'])}")
    if not answer["ended"]:
        facts.append("did not end")
    response = text(answer["response"]) or '<span class="soft">(empty)</span>'
    return (
        f'<div class="answer{" wide" if wide else ""}"><h4><span>{named(name, label(name, n))}'
        f"</span><small>{text(' · '.join(facts))}</small></h4>"
        f'<div class="text">{response}</div></div>'
    )
