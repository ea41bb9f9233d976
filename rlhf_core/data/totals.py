"""How many rows break each rule, and what is done with them."""

from collections.abc import Mapping
from typing import Any

from rlhf_core.data.rules import RULES, Action


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
