"""Histograms of lengths, on axes on which each doubling is one step."""

import math
from collections.abc import Mapping
from typing import Any

from rlhf_core.pages.drawings import Outline, histograms

BLUE, AMBER, GREEN = "#3b82f6", "#d97706", "#16a34a"

_DECADES = [10**power for power in range(12)]
_NAMES = {1_000: "1k", 10_000: "10k", 100_000: "100k", 10**6: "1M", 10**7: "10M"}


def length_drawings(found: Mapping[str, Any]) -> str:
    """The drawings of a table's lengths; empty where there is nothing to draw."""
    lengths = [
        Outline(name, colour, _by_doublings(found[key]["histogram"]))
        for key, name, colour in (
            ("text_characters", "texts", BLUE),
            ("prompt_characters", "prompts", BLUE),
            ("response_characters", "responses", AMBER),
        )
        if found.get(key, {}).get("count")
    ]
    drawn = []
    if lengths:
        drawn.append(histograms("Characters, as shares of each", lengths, ticks=_ticks()))
    leads = found.get("chosen_minus_rejected_characters", {})
    if leads.get("count"):
        drawn.append(
            histograms(
                "Characters of the best response minus those of the worst",
                [Outline("rows", GREEN, _by_doublings(leads["histogram"]))],
                mark=0.0,
                ticks=_ticks(),
            )
        )
    return f'<div class="drawings">{"".join(drawn)}</div>' if drawn else ""


def _by_doublings(histogram: Mapping[str, list[int]]) -> Mapping[str, list[float]]:
    return {
        "edges": [_place(edge) for edge in histogram["edges"]],
        "counts": [float(count) for count in histogram["counts"]],
    }


def _place(length: float) -> float:
    """Where a length of either sign stands on the axis."""
    return math.copysign(math.log2(1 + abs(length)), length)


def _ticks() -> list[tuple[float, str]]:
    above = [(_place(length), _NAMES.get(length, str(length))) for length in _DECADES]
    below = [(-place, f"−{name}") for place, name in reversed(above[1:])]
    return [*below, (0.0, "0"), *above[1:]]
