"""The rules as a table, for people and for docs/data.md."""

from rlhf_core.data.rules import LENGTH_RULES, RULES, Action, Rule, allowed_actions

_ACTIONS: dict[Action, str] = {"refuse": "refuse", "set_aside": "set aside", "warn": "warn"}

_BY_SETTING = {
    "LEN-001": "`data.long_prompts`",
    "LEN-002": "`data.long_responses`",
}


def rule_table() -> str:
    """All rules in the order of their ids, as Markdown."""
    lines = [
        "| rule | what is wrong | by default | may be | mend |",
        "| --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*lines, *(_line(RULES[rule_id]) for rule_id in sorted(RULES))])


def _line(rule: Rule) -> str:
    if rule.id in LENGTH_RULES:
        others = _BY_SETTING[rule.id]
    else:
        changes = [_ACTIONS[action] for action in allowed_actions(rule.id) if action != rule.action]
        others = ", ".join(changes) or "–"
    cells = (rule.id, rule.title, _ACTIONS[rule.action], others, rule.mend)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
