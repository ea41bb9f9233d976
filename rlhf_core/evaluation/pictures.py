"""Pictures of the trainings and of what came of them, as PNG files.

Equal results give equal bytes: the fonts are matplotlib's own and no version or time is written.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from rlhf_core.evaluation.canvas import COLOURS, DOTS_PER_INCH, STYLE, panels
from rlhf_core.evaluation.gain_pictures import distributions, score_against_kl
from rlhf_core.evaluation.results import Results
from rlhf_core.evaluation.training_records import History, TrainingRecords, series

SMOOTHED_SHARE = 0.05
"""Width of the moving average drawn over single batches, as a share of all of them."""


class Picture(NamedTuple):
    """A PNG in the report's folder, and what it shows."""

    file: str
    caption: str


def write_pictures(results: Results, records: TrainingRecords, folder: Path) -> list[Picture]:
    """`folder` holds every picture, in the order of the page."""
    drawn: list[tuple[Picture, Callable[[], Figure]]] = [
        (
            Picture(
                "score-against-kl.png",
                "What was gained, and how far the policy moved for it. The line is the course of "
                "PPO's training on its own rollouts; best-of-k is drawn at ln k − (k − 1)/k nats.",
            ),
            lambda: score_against_kl(results, records.ppo),
        ),
        (
            Picture(
                "score-distributions.png",
                "How the answers to the held-out prompts are graded; vertical lines are means.",
            ),
            lambda: distributions(results),
        ),
        (
            Picture("learning-ppo.png", "PPO, by update, on the responses of each rollout."),
            lambda: ppo_curves(records.ppo),
        ),
        (
            Picture(
                "learning-sft.png",
                "Supervised fine-tuning: nats per response token, by optimizer step. Pale: single "
                "batches; line: their moving average.",
            ),
            lambda: sft_curves(records.sft),
        ),
    ]
    if records.scorecard is not None:
        picture = Picture(
            "learning-reward-model.png",
            "Reward model, by optimizer step, and how far its margins can be trusted: dots "
            "on the diagonal mean that it promises what comes true.",
        )
        drawn.append((picture, lambda: reward_model_curves(records)))
    for picture, draw in drawn:
        with rc_context(STYLE):  # type: ignore[arg-type]  # the stubs list every key by name
            draw().savefig(folder / picture.file, dpi=DOTS_PER_INCH, metadata={"Software": None})
    return [picture for picture, _ in drawn]


def ppo_curves(history: History) -> Figure:
    """Score, KL, entropy, length, ended share and distance within an update."""
    figure, axes = panels(3, 2, height=4.2)
    titles = {
        "score": "reward-model score",
        "kl_to_reference": "KL to SFT, nats per response",
        "entropy": "entropy, nats per token",
        "response_tokens": "response length, tokens",
        "ended_share": "share of responses that end",
        "clip_fraction": "clip fraction",
    }
    for panel, (name, title) in zip(axes, titles.items(), strict=True):
        _curve(panel, history, name, COLOURS["ppo"])
        panel.set_title(title)
    axes[4].set_ylim(-0.04, 1.04)
    for panel in axes[3:]:
        panel.set_xlabel("update")
    return figure


def sft_curves(history: History) -> Figure:
    """Loss of the batches, and the validation loss."""
    figure, axes = panels(1, height=2.8)
    _smoothed(axes[0], history, "loss", COLOURS["sft"], label="training batches")
    _curve(axes[0], history, "validation_loss", COLOURS["ppo"], label="validation")
    axes[0].set_yscale("log")
    for set_formatter in (axes[0].yaxis.set_major_formatter, axes[0].yaxis.set_minor_formatter):
        set_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes[0].set_xlabel("optimizer step")
    axes[0].legend()
    return figure


def reward_model_curves(records: TrainingRecords) -> Figure:
    """Loss, accuracy with the validation's interval, and calibration."""
    figure, axes = panels(3, height=3.0)
    card = records.scorecard
    assert card is not None, "drawn where there is a reward model"
    _smoothed(axes[0], records.reward_model, "loss", COLOURS["sft"], label="training batches")
    axes[0].axhline(card["loss"], color=COLOURS["ppo"], label="validation")
    axes[0].set_title("loss, nats per pair")
    _smoothed(axes[1], records.reward_model, "accuracy", COLOURS["sft"], label="training batches")
    axes[1].axhspan(
        card["accuracy_low"], card["accuracy_high"], color=COLOURS["ppo"], alpha=0.15, linewidth=0
    )
    axes[1].axhline(card["accuracy"], color=COLOURS["ppo"], label="validation")
    axes[1].axhline(
        card["longer_wins_accuracy"], color=COLOURS["best_of_n"], ls=":", label="longer wins"
    )
    axes[1].set_title("accuracy on pairs")
    axes[2].plot([0.5, 1], [0.5, 1], color="#94a3b8", linewidth=1)
    axes[2].plot(
        [part["promised"] for part in card["calibration"]],
        [part["found"] for part in card["calibration"]],
        color=COLOURS["ppo"],
        marker="o",
        markersize=4,
        linestyle="none",
    )
    axes[2].set_title("calibration")
    axes[2].set_xlabel("promised: sigmoid(margin)")
    axes[2].set_ylabel("came true")
    for panel in axes[:2]:
        panel.set_xlabel("optimizer step")
        panel.legend()
    return figure


def _curve(
    axes: Axes, history: History, name: str, colour: str, *, label: str | None = None
) -> None:
    found = series(history, name)
    marker = "o" if len(found.steps) < 12 else ""
    axes.plot(found.steps, found.values, color=colour, marker=marker, markersize=3.5, label=label)


def _smoothed(axes: Axes, history: History, name: str, colour: str, *, label: str) -> None:
    """Single values pale, and over them the mean of the neighbours on both sides."""
    found = series(history, name)
    reach = int(SMOOTHED_SHARE * len(found.values) / 2)
    averages = [
        float(np.mean(found.values[max(0, place - reach) : place + reach + 1]))
        for place in range(len(found.values))
    ]
    axes.plot(found.steps, found.values, color=colour, alpha=0.3, linewidth=0.8)
    axes.plot(found.steps, averages, color=colour, label=label)
