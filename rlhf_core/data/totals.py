"""How many rows break each rule, what is done with them, and which of them are shown."""

from collections.abc import Iterable, Mapping
from typing import Any

from rlhf_core.data.faults import SHOWN_PER_RULE, Fault
from rlhf_core.data.rules import RULES, Action

ACTION_WORDS: Mapping[str, str] = {
    "refuse": "refused",
    "set_aside": "set aside",
    "warn": "warning",
}
"""What is done with a row, as reports say it."""


def rule_facts(
    tables: Mapping[str, Mapping[str, Any]], actions: Mapping[str, Action]
) -> dict[str, dict[str, object]]:
    """For each rule that is broken: title, what is done, what is by default, how many faults."""
    counts: dict[str, int] = {}
    for facts in tables.values():
        for rule, count in facts["faults_by_rule"].items():
            counts[rule] = counts.get(rule, 0) + count
    return {
        rule: {
            "title": RULES[rule].title,
            "action": actions[rule],
            "default": RULES[rule].action,
            "faults": counts[rule],
        }
        for rule in sorted(counts)
    }


def fault_metrics(rules: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The counts of `rule_facts` as metrics."""
    return {f"faults_{rule}": float(facts["faults"]) for rule, facts in rules.items()}


def rules_in_words(rules: Mapping[str, Mapping[str, Any]]) -> str:
    """Every broken rule with its count and what is done, in one line; empty where none is."""
    return ", ".join(
        f"{rule} {facts['title']} {facts['faults']:,} ({ACTION_WORDS[facts['action']]})"
        for rule, facts in rules.items()
    )


def joined_comparisons(report: Mapping[str, Any]) -> int:
    """How many comparisons went into rankings of several; 0 where anything is refused."""
    if not report["usable"]:
        return 0
    left = ("usable", "set_aside")
    return sum(
        facts["rows"] - sum(facts[name] for name in left) for facts in report["tables"].values()
    )


def first_faults(faults: Iterable[Mapping[str, Any]]) -> list[Fault]:
    """The first faults of each rule, in their order."""
    counts: dict[str, int] = {}
    shown = []
    for fault in faults:
        rule = fault["rule"]
        counts[rule] = counts.get(rule, 0) + 1
        if counts[rule] <= SHOWN_PER_RULE:
            names = ("file", "line", "field", "seen")
            shown.append(Fault(rule, *(fault[name] for name in names)))
    return shown
