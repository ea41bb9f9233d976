"""The page of a reward model's scorecard: what it is worth, and what should make one doubt it."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_core.pages.drawings import Outline, histograms, reliability
from rlhf_core.pages.html import document, estimate, table, text, tile, whisker
from rlhf_core.pages.stylesheet import STYLESHEET
from rlhf_core.pages.wording import bounds, decimal, nats, percent, short
from rlhf_core.statistics import Interval

OURS, LENGTH, DEMONSTRATIONS, SFT = "#1d4ed8", "#b45309", "#15803d", "#64748b"

OWN_STYLE = """
.drawings { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 16px; }
figure.drawing { margin: 8px 0; max-width: 560px; }
figure.drawing svg { width: 100%; height: auto; }
.key { margin-left: 10px; white-space: nowrap; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 1px; background: var(--line); }
.sides > div { background: #fff; padding: 10px 14px 12px; min-width: 0; }
"""


def scorecard_page(card: Mapping[str, Any]) -> str:
    """The whole page of the scorecard's document; texts of the data are escaped."""
    sections = [_headline(card), _accuracy(card), _trust(card), _scores(card), _worst(card)]
    return document("Reward model", sections, STYLESHEET + OWN_STYLE)


def _headline(card: Mapping[str, Any]) -> str:
    accuracy, lead = _accuracy_of(card), _interval(card["lead_over_length"])
    tiles = [
        tile(percent(accuracy.mean), f"of held-out pairs right [{bounds(accuracy, percent)}]"),
        tile(
            f"{nats(100 * lead.mean)} points",
            f"more than “the longer one wins” [{nats(100 * lead.low)} to {nats(100 * lead.high)}]",
        ),
        tile(decimal(card["loss"]), "nats per pair; a coin loses 0.693"),
        tile(percent(card["calibration_error"]), "expected calibration error"),
    ]
    return (
        f'<h1>Reward model</h1><p class="soft">{card["pairs"]:.0f} held-out pairs of '
        f"{card['prompts']:.0f} prompts or groups. Brackets are 95 % intervals over these.</p>"
        f'<div class="tiles">{"".join(tiles)}</div>'
    )


def _accuracy(card: Mapping[str, Any]) -> str:
    rows = [
        _bar("the reward model", _accuracy_of(card), OURS, card["pairs"]),
        _bar(
            "always taking the longer response",
            _interval(card["longer_wins_interval"]),
            LENGTH,
            card["pairs"],
        ),
    ]
    high = card["accuracy_where_both_score_high"]
    if high is not None:
        name = f"pairs whose scores are both above {short(high['threshold'])}, the median"
        rows.append(_bar(name, _interval(high), OURS, high["pairs"]))
    parts = [
        "<h2>How often it is right</h2>",
        table(["", "", "accuracy", "pairs"], rows),
        (
            f'<p class="soft">Correlation of score with length, over pairs: '
            f"{short(card['length_correlation'])}.</p>"
        ),
    ]
    for column, title in (
        ("source", "source"),
        ("group", "group"),
        ("confidence", "the labeler's confidence"),
    ):
        found = card.get(f"accuracy_by_{column}", {})
        if found:
            inner = [
                _bar(name, _interval(part), OURS, part["pairs"]) for name, part in found.items()
            ]
            parts.append(
                f"<h3>By {title}</h3>" + table([text(column), "", "accuracy", "pairs"], inner)
            )
    return "".join(parts)


def _trust(card: Mapping[str, Any]) -> str:
    margins = histograms(
        "Score of the better response minus that of the worse; left of the line it is wrong.",
        [Outline("margins", OURS, card["margins"])],
        mark=0.0,
    )
    reliable = reliability(
        "What came true over what sigmoid(margin) promised; below the line it is over-confident.",
        card["calibration"],
    )
    rows = [
        ["margin, mean and deviation", decimal(card["margin"]), decimal(card["margin_deviation"])]
    ]
    if card["disagreement"] > 0:
        rows.append(
            [
                "disagreement of the members on a margin",
                decimal(card["disagreement"]),
                "",
            ]
        )
    return (
        "<h2>How far its margins can be trusted</h2>"
        f'<div class="drawings">{margins}{reliable}</div>' + table(["", "", ""], rows)
    )


def _scores(card: Mapping[str, Any]) -> str:
    shown = card["scores"]
    drawing = histograms(
        "Scores of what was compared, of demonstrations, and of the SFT policy's own responses.",
        [
            Outline("better", OURS, shown["better"]),
            Outline("worse", LENGTH, shown["worse"]),
            Outline("demonstrations", DEMONSTRATIONS, shown["demonstrations"]),
            Outline("SFT samples", SFT, shown["sft_samples"]),
        ],
    )
    rows = [["demonstrations", decimal(card["demonstration_score"]), ""]]
    if "sft_sample_score" in card:
        rows.append(
            [
                "responses of the SFT policy that ended",
                decimal(card["sft_sample_score"]),
                decimal(card["sft_sample_score_deviation"]),
            ]
        )
    return f'<h2>Scores</h2><div class="drawings">{drawing}</div>' + table(
        ["", "mean score", "deviation"], rows
    )


def _worst(card: Mapping[str, Any]) -> str:
    pairs: Sequence[Mapping[str, Any]] = card["worst_pairs"]
    articles = "".join(
        f'<article><header><div class="text">{text(pair["prompt"])}</div></header>'
        f'<div class="sides">{_side("preferred", pair, "better")}'
        f"{_side('not preferred', pair, 'worse')}</div></article>"
        for pair in pairs
    )
    return (
        f"<h2>The {len(pairs)} pairs it judges worst</h2>"
        '<p class="soft">Wrong labels, what it overrates, and what it cannot see.</p>' + articles
    )


def _side(name: str, pair: Mapping[str, Any], which: str) -> str:
    facts = f"score {short(pair[f'{which}_score'])} · {pair[f'{which}_tokens']} tokens"
    return (
        f"<div><strong>{name}</strong> <small>{text(facts)}</small>"
        f'<div class="text">{text(pair[which])}</div></div>'
    )


def _bar(name: str, interval: Interval, colour: str, pairs: float) -> list[str]:
    return [
        text(name) or '<span class="soft">(none)</span>',
        whisker(interval, 0, 1, colour=colour, mark=0.5),
        estimate(interval, share=True),
        f"{pairs:.0f}",
    ]


def _accuracy_of(card: Mapping[str, Any]) -> Interval:
    return Interval(card["accuracy"], card["accuracy_low"], card["accuracy_high"])


def _interval(part: Mapping[str, float]) -> Interval:
    return Interval(part["mean"], part["low"], part["high"])
