"""Faults of rows and files, and how a message names them with why and how to mend."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rlhf_core.data.rules import FILE_RULES, RULES
from rlhf_core.data.shown_text import visible

SHOWN_PER_RULE = 20


class Fault(NamedTuple):
    """One row that breaks one rule; `seen` says what stood there, short and escaped."""

    rule: str
    file: str
    line: int
    field: str
    seen: str


def render_faults(faults: Sequence[Fault], counts: Mapping[str, int] | None = None) -> str:
    """The faults rule by rule, at most 20 of each, every block ending in why and how to mend.

    `counts` says how many there are of each rule where `faults` are only the first ones.
    """
    totals = count_by_rule(faults) if counts is None else counts
    blocks = []
    for rule_id in sorted({fault.rule for fault in faults}):
        rule = RULES[rule_id]
        shown = [fault for fault in faults if fault.rule == rule_id][:SHOWN_PER_RULE]
        lines = []
        for fault in shown:
            lines.append(f"{place_of(fault)}  rule {rule.id} {rule.title}")
            lines.append(f"  seen: {visible(fault.seen)}")
        if totals[rule_id] > len(shown):
            lines.append(f"  ... and {totals[rule_id] - len(shown):,} more rows of this rule")
        blocks.append("\n".join([*lines, f"  why : {rule.why}", f"  mend: {rule.mend}"]))
    return "\n".join(blocks)


def place_of(fault: Fault) -> str:
    """File, line and field of a fault, in the manner that editors and terminals follow."""
    return f'{visible(fault.file)}:{fault.line}  field "{field_of(fault)}"'


def field_of(fault: Fault) -> str:
    """The field that is at fault, or that all of the line or of the file is."""
    if fault.field:
        return visible(fault.field)
    return "(whole file)" if fault.rule in FILE_RULES else "(whole line)"


def count_by_rule(faults: Sequence[Fault]) -> dict[str, int]:
    """How many faults each broken rule has."""
    return {
        rule_id: sum(fault.rule == rule_id for fault in faults)
        for rule_id in sorted({fault.rule for fault in faults})
    }
