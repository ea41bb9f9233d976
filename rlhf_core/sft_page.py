"""The report of SFT: one HTML page that holds its charts and its style, and runs nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlhf_core.pages.html import document, table, text, tile
from rlhf_core.pages.line_chart import Line, Marked, line_chart
from rlhf_core.pages.stylesheet import STYLESHEET
from rlhf_core.sft_records import Example, Sample
from rlhf_core.truncation import Truncation

CHART_POINTS = 150
"""Training losses are averaged so that at most this many points are drawn."""

SHOWN_PROMPTS = 4
"""Prompts whose samples are on the page; the others are in samples.jsonl."""

STYLE = """
.key { margin-right: 18px; } .key .dot { margin-right: 5px; }
.example { font-size: 13px; line-height: 1.9; }
.token { border-radius: 3px; padding: 1px 0; margin-right: 2px; white-space: pre-wrap; }
.token.learnt { background: #bbf7d0; } .token.read { background: #f1f5f9; }
"""

BLUE, GREY, AMBER, GREEN = "#1d4ed8", "#94a3b8", "#b45309", "#15803d"

History = Sequence[Mapping[str, float | None]]


@dataclass(frozen=True)
class SftReport:
    """All that the page shows."""

    history: History
    steps_per_epoch: int
    validation_loss: float
    kept_step: int
    turned_at: int
    notes: Sequence[str]
    truncations: Mapping[str, Truncation]
    usual: Mapping[str, float]
    """The figures of the samples, measured on the demonstrations' responses to their prompts."""

    samples: Sequence[Sample]
    examples: Sequence[Example]
    seed: int


def sft_page(report: SftReport) -> str:
    """The whole page."""
    sections = [
        _headline(report),
        _notes(report.notes),
        _losses(report),
        _budgets(report.truncations),
        _repetition(report),
        _samples(report.samples),
        _examples(report.examples),
    ]
    return document("SFT", sections, STYLESHEET + STYLE)


def _headline(report: SftReport) -> str:
    train = report.truncations["train"]
    epochs = report.kept_step / report.steps_per_epoch
    tiles = [
        (f"{report.validation_loss:.3f}", "validation loss of the kept weights, nats per token"),
        (f"{epochs:.3g}", "epochs after which the weights were kept"),
        (f"{train.rows - train.rows_dropped:,}", "demonstrations trained on"),
    ]
    if report.samples:
        last = max(sample.epoch for sample in report.samples)
        ended = [sample.ended for sample in report.samples if sample.epoch == last]
        tiles.append((f"{sum(ended) / len(ended):.0%}", "of the last samples end by themselves"))
    shown = "".join(tile(figure, about) for figure, about in tiles)
    return (
        '<h1>Supervised fine-tuning</h1><p class="soft">The policy learns to answer as the '
        f'demonstrations do. Seed {report.seed}.</p><div class="tiles">{shown}</div>'
    )


def _notes(notes: Sequence[str]) -> str:
    return "".join(f'<p class="note">{text(note)}</p>' for note in notes)


def _losses(report: SftReport) -> str:
    per_epoch = report.steps_per_epoch

    def points(name: str) -> list[tuple[float, float]]:
        rows = [(row["step"], row.get(name)) for row in report.history]
        return [(x / per_epoch, y) for x, y in rows if x is not None and y is not None]

    marks = []
    if report.turned_at:
        marks.append(Marked(report.turned_at / per_epoch, "turned"))
    chart = line_chart(
        [
            Line("training, mean over steps", GREY, _averaged(points("loss")), dots=False),
            Line("validation", BLUE, points("validation_loss"), dots=True),
        ],
        x_label="epochs",
        y_label="loss, nats per token",
        marks=marks,
    )
    return f"<h2>The losses</h2>{chart}"


def _averaged(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means over neighbours, so that few enough points are left."""
    size = -(-len(points) // CHART_POINTS) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]


def _budgets(truncations: Mapping[str, Truncation]) -> str:
    facts = {
        "demonstrations": "rows",
        "tokens": "tokens",
        "prompts over the budget": "prompts_too_long",
        "responses over the budget": "responses_too_long",
        "rows dropped": "rows_dropped",
        "responses cut": "responses_cut",
        "tokens lost": "tokens_lost",
        "rows without anything to learn": "rows_without_labels",
        "longest prompt, tokens": "longest_prompt",
        "longest response, tokens": "longest_response",
    }
    documents = [found.document() for found in truncations.values()]
    rows = [
        [name, *(f"{found[count]:,.0f}" for found in documents)] for name, count in facts.items()
    ]
    return (
        "<h2>What the length budgets took</h2>"
        + table(["", *truncations], rows)
        + '<p class="soft">Rows that the data stage set aside for their length are in its '
        "<code>report.json</code>.</p>"
    )


def _repetition(report: SftReport) -> str:
    measured = [
        (row["step"], row)
        for row in report.history
        if row.get("sample_ended_share") is not None and row["step"] is not None
    ]
    if not measured:
        return ""
    names = ("repeated_4grams", "distinct_1grams", "distinct_2grams")
    rows = [
        [f"epoch {step / report.steps_per_epoch:.3g}"]
        + [_percent(row[f"sample_{name}"]) for name in (*names, "ended_share")]
        + [f"{row['sample_response_tokens'] or 0:.1f}"]
        for step, row in measured
    ]
    usual = report.usual
    rows.append(
        ["demonstrations"]
        + [_percent(usual[name]) for name in (*names, "ended_share")]
        + [f"{usual['response_tokens']:.1f}"]
    )
    heads = ["samples after", "repeated 4-grams", "distinct 1-grams", "2-grams", "ended", "tokens"]
    chart = line_chart(
        [
            Line("repeated 4-grams", AMBER, _shares(report, "sample_repeated_4grams"), dots=True),
            Line("ended", GREEN, _shares(report, "sample_ended_share"), dots=True),
        ],
        x_label="epochs",
        y_label="share of the samples",
    )
    several = len(measured) > 1
    return (
        "<h2>Does it repeat itself?</h2>"
        + table(heads, rows)
        + (chart if several else "")
        + '<p class="soft">Repeated: n-grams that stood before in the same response, as a broken '
        "record has them. Distinct: different n-grams of all samples by their number.</p>"
    )


def _shares(report: SftReport, name: str) -> list[tuple[float, float]]:
    rows = [(row["step"], row.get(name)) for row in report.history]
    return [(x / report.steps_per_epoch, y) for x, y in rows if x is not None and y is not None]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _samples(samples: Sequence[Sample]) -> str:
    prompts = list(dict.fromkeys(sample.prompt for sample in samples))[:SHOWN_PROMPTS]
    if not prompts:
        return ""
    shown = []
    for prompt in prompts:
        own = [sample for sample in samples if sample.prompt == prompt]
        answers = [
            _answer(f"epoch {sample.epoch}", sample.response, _facts(sample)) for sample in own
        ]
        wide = len(answers) % 2 == 0  # two stand in a row
        answers.append(_answer("demonstration", own[0].reference, "", wide=wide))
        shown.append(
            f'<article><header><div class="text">{text(prompt)}</div></header>'
            f'<div class="answers">{"".join(answers)}</div></article>'
        )
    return (
        "<h2>Samples of each epoch</h2>"
        f'<p class="soft">The first {len(prompts)} validation prompts, not chosen by hand; all '
        "samples are in <code>samples.jsonl</code>.</p>" + "".join(shown)
    )


def _facts(sample: Sample) -> str:
    return f"{sample.tokens} tokens{'' if sample.ended else ' · did not end'}"


def _answer(name: str, response: str, facts: str, *, wide: bool = False) -> str:
    shown = text(response) or '<span class="soft">(empty)</span>'
    return (
        f'<div class="answer{" wide" if wide else ""}"><h4><span>{text(name)}</span>'
        f"<small>{text(facts)}</small></h4>"
        f'<div class="text">{shown}</div></div>'
    )


def _examples(examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    shown = []
    for example in examples:
        tokens = "".join(
            f'<span class="token {"learnt" if learnt else "read"}" title="{number}">'
            f"{text(token)}</span>"
            for number, token, learnt in zip(
                example.ids, example.tokens, example.learnt, strict=True
            )
        )
        shown.append(
            f"<article><header>{text(example.file)}:{example.line}</header>"
            f'<div class="answer wide example">{tokens}</div></article>'
        )
    return (
        "<h2>What training reads</h2>"
        '<p class="soft">The first demonstrations token by token, ids on hover; '
        '<span class="token learnt">green</span> is learnt, '
        '<span class="token read">grey</span> is read only.</p>' + "".join(shown)
    )
