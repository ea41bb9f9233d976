"""How many rows break each rule, what is done with them, and which of them are shown."""

from collections.abc import Iterable, Mapping
from typing import Any

from rlhf_core.data.rules import RULES, SHOWN_PER_RULE, Action, Fault


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
