"""What a reward model is worth: its accuracy beside the baselines that would fool us."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import softplus

from rlhf_core.statistics import Interval, bootstrap_mean
from rlhf_core.training.compared import Comparisons

MOST_PARTS = 50
"""Sources or groups listed apart, the most frequent first."""


class Scorecard(NamedTuple):
    """The numbers worth a glance, and the whole document."""

    summary: dict[str, float]
    document: dict[str, object]


def scorecard(
    comparisons: Comparisons,
    preferences: pd.DataFrame,
    *,
    demonstration_scores: Tensor,
    seed: int,
) -> Scorecard:
    """Grade a reward model on validation `comparisons`, whose prompts are rows of `preferences`.

    Intervals are bootstrapped over prompts, or over groups where the table names them: pairs of one
    prompt are not independent. `longer_wins_accuracy` is what always taking the response of more
    tokens would reach on the same pairs.
    """
    cluster = _clusters(preferences)[comparisons.prompt_index.numpy()]
    accuracy = _interval(comparisons.correct, cluster, seed)
    longer = (comparisons.better_tokens > comparisons.worse_tokens).float()
    longer += 0.5 * (comparisons.better_tokens == comparisons.worse_tokens).float()
    margin = comparisons.better - comparisons.worse
    summary = {
        "accuracy": accuracy.mean,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "loss": float(softplus(-margin).mean()),
        "margin": float(margin.mean()),
        "margin_deviation": float(margin.std()) if len(margin) > 1 else 0.0,
        "longer_wins_accuracy": float(longer.mean()),
        "length_correlation": _length_correlation(comparisons),
        "demonstration_score": float(demonstration_scores.mean()),
        "pairs": float(len(margin)),
    }
    parts = {
        column: _by_part(preferences[column], comparisons, cluster, seed)
        for column in ("source", "group")
    }
    return Scorecard(
        summary,
        {
            **summary,
            "longer_wins_interval": _interval(longer, cluster, seed)._asdict(),
            "calibration": calibration(margin),
            **{f"accuracy_by_{column}": part for column, part in parts.items() if part},
        },
    )


def _clusters(preferences: pd.DataFrame) -> np.ndarray:
    """A number for each row, the same for rows that belong together."""
    keys = preferences["group"].where(preferences["group"].notna(), preferences["prompt"])
    keys = keys.where(keys != "", preferences["prompt"])
    return np.asarray(pd.factorize(keys)[0])


def _interval(hits: Tensor, cluster: np.ndarray, seed: int) -> Interval:
    totals = np.bincount(cluster, weights=hits.numpy())
    counts = np.bincount(cluster)
    seen = counts > 0
    return bootstrap_mean(totals[seen].tolist(), counts[seen].tolist(), samples=2000, seed=seed)


def _by_part(
    names: pd.Series, comparisons: Comparisons, cluster: np.ndarray, seed: int
) -> dict[str, dict[str, float]]:
    """Accuracy for each value of a column, when it has more than one."""
    of_pair = names.fillna("").to_numpy()[comparisons.prompt_index.numpy()]
    frequent = pd.Series(of_pair).value_counts().head(MOST_PARTS)
    if len(frequent) < 2:
        return {}
    result = {}
    for name, count in sorted(frequent.items(), key=lambda item: (-item[1], str(item[0]))):
        rows = torch.from_numpy(of_pair == name)
        part = _interval(comparisons.correct[rows], cluster[rows.numpy()], seed)
        result[str(name)] = {**part._asdict(), "pairs": float(count)}
    return result


def calibration(margin: Tensor, bins: int = 10) -> list[dict[str, float]]:
    """Bins of |margin| with what sigmoid promises and what came true (section 2.5)."""
    size, right = margin.abs(), (margin > 0).float() + 0.5 * (margin == 0).float()
    order = size.argsort()
    return [
        {
            "margin": float(size[part].mean()),
            "promised": float(torch.sigmoid(size[part]).mean()),
            "found": float(right[part].mean()),
            "pairs": float(len(part)),
        }
        for part in torch.tensor_split(order, bins)
        if len(part)
    ]


def _length_correlation(comparisons: Comparisons) -> float:
    """Correlation over pairs of the difference in score with the difference in tokens."""
    scores = (comparisons.better - comparisons.worse).double()
    tokens = (comparisons.better_tokens - comparisons.worse_tokens).double()
    # A pair has no first side: each counts both ways round, so both means are 0.
    norm = float((scores.square().sum() * tokens.square().sum()).sqrt())
    return float((scores * tokens).sum()) / norm if norm > 0 else 0.0
