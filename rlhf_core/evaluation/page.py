"""The report: one HTML page that holds its pictures and its style, and runs nothing."""

import math
from collections.abc import Sequence
from pathlib import Path

from rlhf_core.evaluation import marks
from rlhf_core.evaluation.canvas import COLOURS
from rlhf_core.evaluation.definitions import definitions
from rlhf_core.evaluation.findings import findings
from rlhf_core.evaluation.judge_section import judge_section
from rlhf_core.evaluation.pictures import Picture
from rlhf_core.evaluation.price_section import price_section
from rlhf_core.evaluation.results import Results, SetMeasures, SetName
from rlhf_core.evaluation.samples_section import samples_section
from rlhf_core.evaluation.training_records import TrainingRecords
from rlhf_core.evaluation.wording import label
from rlhf_core.pages.html import document, estimate, table, text, tile, whisker
from rlhf_core.pages.stylesheet import STYLESHEET
from rlhf_core.pages.wording import bounds, decimal, nats, percent, short
from rlhf_core.statistics import Interval

ORDER: tuple[SetName, ...] = (
    "sft",
    "sft_greedy",
    "best_of_n_by_likelihood",
    "best_of_n",
    "demonstrations",
    "ppo",
    "ppo_greedy",
)
"""Rows of the table of answer sets."""

RESULT_PICTURES = 2
"""The first pictures belong to the results, the others to the trainings."""

VERDICTS = {True: ("yes", "✓ holds"), False: ("no", "✗ fails"), None: ("unknown", "? open")}


def report_page(
    results: Results, records: TrainingRecords, pictures: Sequence[Picture], folder: Path
) -> str:
    """The whole page, with the pictures of `folder` inside."""
    figures = [marks.figure(picture, folder) for picture in pictures]
    sections = [
        _headline(results),
        _findings(results, records),
        _answer_sets(results),
        _win_rates(results),
        judge_section(results),
        "<h2>What was gained, and at what price</h2>" + "".join(figures[:RESULT_PICTURES]),
        price_section(results),
        samples_section(results),
        _reward_model(records),
        "<h2>The trainings</h2>" + "".join(figures[RESULT_PICTURES:]),
        _definitions(results),
    ]
    return document("Evaluation", sections, STYLESHEET)


def _headline(results: Results) -> str:
    over_sft = results.win_rates["sft"].rate
    name = "gold score" if results.judge == "gold" else "reward-model score"
    sft, ppo = (_grade(results.measures[policy]) for policy in ("sft", "ppo"))
    tiles = [
        tile(
            percent(over_sft.mean),
            f"of prompts won over SFT, by {name} [{bounds(over_sft, percent)}]",
        ),
        tile(f"{short(sft.mean)} → {short(ppo.mean)}", f"{name}, SFT → PPO"),
        tile(
            f"{nats(results.kl.mean)} nats",
            f"KL of PPO to SFT per response [{bounds(results.kl, nats)}]",
        ),
        tile(percent(results.measures["ppo"].ended_share), "of PPO's responses end by themselves"),
    ]
    warning = ""
    if results.judge == "reward_model":
        warning = (
            '<p class="note"><strong>No independent judge.</strong> Answers are compared by the '
            "reward model that PPO was trained to please. What follows shows that the training "
            "worked as an optimization, and is no evidence that the answers are better.</p>"
        )
    judged = "by the gold score, which no training stage has seen"
    if results.judge == "reward_model":
        judged = "by the reward model"
    return (
        f'<h1>Evaluation</h1><p class="soft">{len(results.prompts)} held-out prompts, judged '
        f"{judged}. Brackets are 95 % intervals over prompts. Seed {results.seed}.</p>"
        f'<div class="tiles">{"".join(tiles)}</div>{warning}'
    )


def _grade(measures: SetMeasures) -> Interval:
    return measures.gold or measures.score


def _findings(results: Results, records: TrainingRecords) -> str:
    items = []
    for finding in findings(results, records):
        style, verdict = VERDICTS[finding.holds]
        items.append(
            f'<li><span class="verdict {style}">{verdict}</span><div><strong>'
            f'{text(finding.claim)}</strong><span class="figures">{text(finding.figures)}</span>'
            "</div></li>"
        )
    return f'<h2>Is the gain real?</h2><ul class="findings">{"".join(items)}</ul>'


def _answer_sets(results: Results) -> str:
    graded = results.judge == "gold"
    shown = [name for name in ORDER if name in results.measures]
    grades = [_grade(results.measures[name]) for name in shown]
    low, high = min(grade.low for grade in grades), max(grade.high for grade in grades)
    if graded:
        low, high = 0.0, min(1.0, math.ceil(10 * high + 0.1) / 10)
    held_out = results.measures["ppo"].held_out is not None
    heads = ["answers", "", *(["gold score"] if graded else []), "reward-model score"]
    heads += ["held-out reward model"] if held_out else []
    heads += ["ended", "tokens", "distinct 1-, 2-, 3-grams"]
    rows = []
    for name in shown:
        measures = results.measures[name]
        rows.append(
            [
                marks.named(name, label(name, results.settings.best_of_n))
                + f"<small>to {measures.responses} prompts</small>",
                whisker(_grade(measures), low, high, colour=COLOURS[name]),
                *([estimate(measures.gold)] if measures.gold is not None else []),
                estimate(measures.score),
                *([estimate(measures.held_out)] if measures.held_out is not None else []),
                percent(measures.ended_share),
                f"{measures.response_tokens:.1f}",
                " · ".join(map(_share, measures.distinct_ngrams.values())),
            ]
        )
    axis = f"the gold score from 0 to {high:.1f}" if graded else "the reward-model score"
    return (
        "<h2>Every set of answers</h2>"
        + table(heads, rows, ours=shown.index("ppo"))
        + f'<p class="soft">Dots and bars: {axis}, with its interval.</p>'
    )


def _share(share: float | None) -> str:
    return "–" if share is None else short(share)


def _win_rates(results: Results) -> str:
    rows = []
    for rival, win_rate in results.win_rates.items():
        alike = win_rate.similar_length
        rows.append(
            [
                marks.named(rival, label(rival, results.settings.best_of_n)),
                whisker(win_rate.rate, 0, 1, colour=COLOURS["ppo"], mark=0.5),
                estimate(win_rate.rate, share=True),
                estimate(win_rate.lead),
                percent(win_rate.ties),
                str(win_rate.pairs),
                "–" if alike is None else estimate(alike, share=True),
                str(win_rate.similar_length_pairs),
            ]
        )
    grade = "gold" if results.judge == "gold" else "score"
    heads = ["PPO against", "", "win rate", f"lead in {grade}", "ties", "pairs"]
    heads += ["win rate at similar length", "pairs"]
    return "<h2>Win rates of PPO</h2>" + table(heads, rows)


def _reward_model(records: TrainingRecords) -> str:
    card = records.scorecard
    if card is None:
        return ""
    accuracy = Interval(card["accuracy"], card["accuracy_low"], card["accuracy_high"])
    longer = Interval(*(card["longer_wins_interval"][name] for name in Interval._fields))
    rows = [
        [
            text("accuracy on validation pairs"),
            whisker(accuracy, 0, 1, colour=COLOURS["ppo"], mark=0.5),
            estimate(accuracy, share=True),
        ],
        [
            text("always taking the longer response"),
            whisker(longer, 0, 1, colour=COLOURS["best_of_n"], mark=0.5),
            estimate(longer, share=True),
        ],
        ["validation loss, nats per pair (a coin: 0.693)", "", decimal(card["loss"])],
        ["margin of the preferred response", "", decimal(card["margin"])],
        ["correlation of score with length", "", decimal(card["length_correlation"])],
        ["pairs", "", f"{card['pairs']:.0f}"],
    ]
    parts = []
    for column in ("source", "group"):
        found = card.get(f"accuracy_by_{column}", {})
        if found:
            inner = [
                [
                    text(name),
                    estimate(Interval(part["mean"], part["low"], part["high"]), share=True),
                    f"{part['pairs']:.0f}",
                ]
                for name, part in found.items()
            ]
            parts.append(
                f"<details><summary>Accuracy by {column}</summary>"
                + table([column, "accuracy", "pairs"], inner)
                + "</details>"
            )
    return "<h2>The reward model</h2>" + table(["", "", "validation"], rows) + "".join(parts)


def _definitions(results: Results) -> str:
    items = "".join(
        f"<dt>{text(term)}</dt><dd>{text(meaning)}</dd>"
        for term, meaning in definitions(results).items()
    )
    return f"<h2>How it was measured</h2><dl>{items}</dl>"
