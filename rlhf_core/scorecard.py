"""What a reward model is worth: its accuracy beside the baselines that would fool us."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import softplus

from rlhf_core.statistics import Interval, bootstrap_mean
from rlhf_core.training.compared import Comparisons

WORST_PAIRS = 20

MOST_PARTS = 50
"""Sources or groups listed apart, the most frequent first."""


class Scorecard(NamedTuple):
    """The numbers worth a glance, and the whole document."""

    summary: dict[str, float]
    document: dict[str, object]


class ScoredTexts(NamedTuple):
    """What the reward model says of responses that nobody compared."""

    demonstrations: Tensor
    sft_samples: Tensor


def scorecard(
    comparisons: Comparisons, preferences: pd.DataFrame, scored: ScoredTexts, *, seed: int
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
    bins = calibration(margin)
    summary = {
        "accuracy": accuracy.mean,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "loss": float(softplus(-margin).mean()),
        "margin": float(margin.mean()),
        "margin_deviation": float(margin.std()) if len(margin) > 1 else 0.0,
        "calibration_error": calibration_error(bins),
        "longer_wins_accuracy": float(longer.mean()),
        "length_correlation": _length_correlation(comparisons),
        "disagreement": float(comparisons.disagreement.mean()),
        "demonstration_score": float(scored.demonstrations.mean()),
        "pairs": float(len(margin)),
        "prompts": float(len(np.unique(cluster))),
    }
    if len(scored.sft_samples):
        summary["sft_sample_score"] = float(scored.sft_samples.mean())
        summary["sft_sample_score_deviation"] = float(scored.sft_samples.std(correction=0))
    parts = {
        column: _by_part(preferences[column], comparisons, cluster, seed)
        for column in ("source", "group", "confidence")
        if column in preferences
    }
    return Scorecard(
        summary,
        {
            **summary,
            "longer_wins_interval": _interval(longer, cluster, seed)._asdict(),
            "lead_over_length": _interval(comparisons.correct - longer, cluster, seed)._asdict(),
            "calibration": bins,
            "margins": histogram(margin),
            "scores": {
                "better": histogram(comparisons.better),
                "worse": histogram(comparisons.worse),
                "demonstrations": histogram(scored.demonstrations),
                "sft_samples": histogram(scored.sft_samples),
            },
            "accuracy_where_both_score_high": _where_both_score_high(comparisons, cluster, seed),
            **{f"accuracy_by_{column}": part for column, part in parts.items() if part},
            "worst_pairs": worst_pairs(comparisons, preferences),
        },
    )


def _where_both_score_high(
    comparisons: Comparisons, cluster: np.ndarray, seed: int
) -> dict[str, float] | None:
    """Accuracy among pairs whose scores are both in the upper half: where PPO's responses go."""
    high = torch.cat([comparisons.better, comparisons.worse]).median()
    both = (comparisons.better >= high) & (comparisons.worse >= high)
    if not both.any():
        return None
    interval = _interval(comparisons.correct[both], cluster[both.numpy()], seed)
    return {**interval._asdict(), "pairs": float(both.sum()), "threshold": float(high)}


def worst_pairs(comparisons: Comparisons, preferences: pd.DataFrame) -> list[dict[str, object]]:
    """The pairs that are judged most wrongly, the worst first: what a person should read."""
    margin = comparisons.better - comparisons.worse
    found = []
    for place in margin.argsort(stable=True)[:WORST_PAIRS].tolist():
        row = preferences.iloc[int(comparisons.prompt_index[place])]
        found.append(
            {
                "prompt": row.prompt,
                "better": row.responses[int(comparisons.better_response[place])],
                "worse": row.responses[int(comparisons.worse_response[place])],
                "better_score": float(comparisons.better[place]),
                "worse_score": float(comparisons.worse[place]),
                "better_tokens": int(comparisons.better_tokens[place]),
                "worse_tokens": int(comparisons.worse_tokens[place]),
            }
        )
    return found


def histogram(values: Tensor, bins: int = 24) -> dict[str, list[float]]:
    """Edges of equal bins and the count in each; both empty where there are no values."""
    if not len(values):
        return {"edges": [], "counts": []}
    counts, edges = np.histogram(values.double().numpy(), bins=bins)
    return {"edges": edges.tolist(), "counts": counts.astype(float).tolist()}


def calibration_error(bins: list[dict[str, float]]) -> float:
    """The expected calibration error: mean over pairs of |promised - came true| of their bin."""
    pairs = sum(part["pairs"] for part in bins)
    return sum(part["pairs"] * abs(part["promised"] - part["found"]) for part in bins) / pairs


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
