"""What the tokens of a report come to, in a line each for whoever reads it on a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from rlhf_core.data.shown_text import visible

SOURCES = 3
"""Sources of preferences for which a line says what length predicts."""


def token_notes(report: Mapping[str, Any]) -> list[str]:
    """Rows over the budgets, texts kept as plain characters, and what length alone predicts."""
    return [note for name, facts in report["tables"].items() for note in _notes(name, facts)]


def _notes(name: str, facts: Mapping[str, Any]) -> Iterator[str]:
    over = facts.get("tokens", {}).get("over_budget", {})
    if over.get("rows"):
        told = {
            "prompts": "prompts",
            "responses": "responses",
            "over_context": "beyond the model's context",
        }
        counts = ", ".join(f"{over[key]:,} {words}" for key, words in told.items() if over[key])
        yield f"{name}: {over['share']:.1%} of the rows are over the token budgets ({counts})"
    if facts.get("literal_texts"):
        yield (
            f"{name}: {facts['literal_texts']:,} texts spell control tokens and are kept as plain "
            "characters"
        )
    for source, found in list(facts.get("length_baseline", {}).items())[:SOURCES]:
        wins = found["longer_wins"]
        learns = ": a reward model will learn length (LEN-004)" if found["beyond_limit"] else ""
        yield (
            f"{name}: always taking the longer response would be right in {wins['mean']:.1%} "
            f"({wins['low']:.1%} to {wins['high']:.1%}) of {found['comparisons']:,} comparisons of "
            f"{visible(source)}{learns}"
        )
