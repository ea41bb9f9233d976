"""Pictures of what was gained: against its price in KL, and response by response."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_core.evaluation.canvas import COLOURS, panels
from rlhf_core.evaluation.course import Course
from rlhf_core.evaluation.results import Results, SetName
from rlhf_core.evaluation.training_records import History, series
from rlhf_core.statistics import Interval


def score_against_kl(results: Results, history: History) -> Figure:
    """Score, and gold where there is one, of SFT, best-of-k and PPO over sequence KL."""
    graded = results.judge == "gold"
    figure, axes = panels(2 if graded else 1, height=3.3)
    kls, scores = series(history, "kl_to_reference"), series(history, "score")
    axes[0].plot(
        kls.values, scores.values, color=COLOURS["ppo"], alpha=0.35, label="PPO in training"
    )
    _frontier(axes[0], results, "reward-model score", lambda name: results.measures[name].score)
    if graded:
        _frontier(axes[1], results, "gold score", lambda name: results.measures[name].gold)
    if results.course is not None:
        _course(axes, results.course)
    axes[0].legend(loc="lower right")
    return figure


def _course(axes: Sequence[Axes], course: Course) -> None:
    """The policies that were kept, in order, from the SFT policy on."""
    points = [course.start, *course.points]
    scores: list[float | None] = [point.score for point in points]
    for panel, grades in zip(axes, (scores, [point.gold for point in points]), strict=False):
        panel.plot(
            [point.kl for point in points],
            [math.nan if grade is None else grade for grade in grades],
            color=COLOURS["ppo_greedy"],
            marker="s",
            markersize=3.5,
            label="policies kept along PPO, held-out",
        )


def _frontier(
    axes: Axes, results: Results, title: str, grade: Callable[[SetName], Interval | None]
) -> None:
    points = results.frontier
    values = [point.score if title == "reward-model score" else point.gold for point in points]
    axes.plot(
        [point.kl for point in points],
        [value for value in values if value is not None],
        color=COLOURS["best_of_n"],
        marker="o",
        markersize=3.5,
        label=f"SFT, best of 1 to {points[-1].k}",
    )
    for name, kl, label in (("sft", 0.0, "SFT"), ("ppo", results.kl.mean, "PPO")):
        interval = grade("sft" if name == "sft" else "ppo")
        if interval is not None:
            spread = [[interval.mean - interval.low], [interval.high - interval.mean]]
            axes.errorbar(
                [kl],
                [interval.mean],
                yerr=spread,
                marker="o",
                markersize=6,
                capsize=3,
                linestyle="none",
                color=COLOURS["sft" if name == "sft" else "ppo"],
                label=f"{label}, held-out, 95 % interval",
            )
    axes.set_title(title)
    axes.set_xlabel("KL to the SFT policy, nats per response")


def distributions(results: Results) -> Figure:
    """Histograms of the scores, and of the golds, of SFT, PPO and the demonstrations."""
    graded = results.judge == "gold"
    figure, axes = panels(2 if graded else 1, height=3.0)
    shown: list[tuple[SetName, str]] = [("sft", "SFT"), ("ppo", "PPO")]
    if "demonstrations" in results.sets:
        shown.append(("demonstrations", "demonstrations"))
    scores = {name: list(results.sets[name].scores) for name, _ in shown}
    flat = [score for values in scores.values() for score in values]
    width = max(max(flat) - min(flat), 1e-6)
    edges = np.linspace(min(flat) - 0.01 * width, max(flat) + 0.01 * width, 29)
    _histograms(axes[0], scores, dict(shown), edges)
    axes[0].set_title("reward-model score")
    if graded:
        golds = {name: list(results.sets[name].golds or ()) for name, _ in shown}
        _histograms(axes[1], golds, dict(shown), np.linspace(0, 1, 26))
        axes[1].set_title("gold score")
    axes[0].set_ylabel("share of the responses")
    axes[0].legend()
    return figure


def _histograms(
    axes: Axes,
    values: Mapping[SetName, list[float]],
    labels: Mapping[SetName, str],
    edges: np.ndarray,
) -> None:
    for name, numbers in values.items():
        weights = np.full(len(numbers), 1 / len(numbers))
        colour = COLOURS[name]
        filled = name != "demonstrations"
        axes.hist(
            numbers,
            bins=list(edges),
            weights=weights,
            histtype="stepfilled" if filled else "step",
            color=colour,
            alpha=0.45 if filled else 0.9,
            label=labels[name],
        )
        axes.axvline(float(np.mean(numbers)), color=colour, linewidth=1.2)
