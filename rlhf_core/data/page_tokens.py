"""What the tokenizer says of a table, on the data page: lengths, budgets, and length alone."""

from collections.abc import Mapping
from typing import Any

from rlhf_core.data.shown_text import visible
from rlhf_core.pages.html import estimate, table, text
from rlhf_core.pages.wording import decimal, percent
from rlhf_core.statistics import Interval

TOKEN_FACTS = frozenset({"length_baseline", "tokens"})
"""The facts of a table that are shown here."""

_NO_BUDGET = 10**9
"""Nobody means a budget of as many tokens; files that no recipe names have none."""

_QUANTILES = ("mean", "least", "median", "p95", "most")

_OVER = {
    "prompts": "prompts over their budget",
    "responses": "responses over theirs",
    "over_context": "rows over the context",
    "prompts_without_room": "prompts that leave no room for an answer",
    "pairs_equal": "rows whose responses are equal once cut",
}


def token_section(facts: Mapping[str, Any]) -> str:
    """The section of one table; empty where nothing was counted."""
    parts = []
    tokens = facts.get("tokens", {})
    if tokens:
        parts.append(_lengths(tokens))
    baseline = facts.get("length_baseline", {})
    if baseline:
        parts.append(_baseline(baseline))
    return "".join(parts)


def _lengths(tokens: Mapping[str, Any]) -> str:
    """Lengths beside their budgets, and how many rows are over one."""
    budgets = tokens["budgets"]
    rows = [
        [
            text(name),
            *(decimal(tokens[name][part], 1).removesuffix(".0") for part in _QUANTILES),
            f"{budgets[name]:,}" if budgets[name] < _NO_BUDGET else "none",
        ]
        for name in ("prompt", "response")
        if tokens[name]["count"]
    ]
    over = tokens["over_budget"]
    counted = [f"{over[name]:,} {what}" for name, what in _OVER.items() if over.get(name)]
    told = (
        f"{percent(over['share'])} of the rows are over a budget: {text(', '.join(counted))}."
        if counted
        else "No row is over a budget."
    )
    return table([text(tokens["unit"]), *_QUANTILES, "budget"], rows) + (
        f"<p>{told} Lengths are those of {tokens['sampled_rows']:,} rows.</p>"
    )


def _baseline(baseline: Mapping[str, Any]) -> str:
    """How often a rule that looks at length alone is right, by source."""
    rows = [
        [
            text(visible(source)) or "(none)",
            f"{found['comparisons']:,}",
            estimate(_interval(found["longer_wins"]), share=True),
            estimate(_interval(found["shorter_wins"]), share=True),
            decimal(found["chosen_minus_rejected"]["mean"], 1),
            decimal(found["chosen_minus_rejected"]["median"], 1),
        ]
        for source, found in baseline.items()
    ]
    heads = ["source", "comparisons", "longer wins", "shorter wins", "lead, mean", "median"]
    return (
        "<h3>What length alone would score</h3>"
        + table(heads, rows)
        + '<p class="soft">A reward model that is right no more often has learnt length. The lead '
        "is the better response's length minus the worse one's.</p>"
    )


def _interval(part: Mapping[str, float]) -> Interval:
    return Interval(part["mean"], part["low"], part["high"])
