"""What all pictures of the report share: size, style, and a colour for each set of answers."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_core.evaluation.results import SetName

COLOURS: Mapping[SetName, str] = {
    "sft": "#64748b",
    "sft_greedy": "#94a3b8",
    "best_of_n": "#b45309",
    "best_of_n_by_likelihood": "#d6a76a",
    "demonstrations": "#15803d",
    "ppo": "#1d4ed8",
    "ppo_greedy": "#7196ec",
}
"""One colour for each set of answers, in every picture and on the page."""

STYLE = {
    "axes.edgecolor": "#94a3b8",
    "axes.grid": True,
    "axes.labelcolor": "#475569",
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": "#0f172a",
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "grid.color": "#e2e8f0",
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "xtick.color": "#475569",
    "xtick.labelsize": 8,
    "ytick.color": "#475569",
    "ytick.labelsize": 8,
}
WIDTH_INCHES = 8.4
DOTS_PER_INCH = 150


def panels(columns: int, rows: int = 1, *, height: float) -> tuple[Figure, list[Axes]]:
    """An empty figure of the report's width with its axes, row by row."""
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)
