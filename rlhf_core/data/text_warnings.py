"""Warnings of texts that can be read, but hardly as they were meant."""

from collections.abc import Sequence

from rlhf_core.data.rows import Row
from rlhf_core.data.rules import Fault
from rlhf_core.data.schemas import TableName, field_names
from rlhf_core.data.texts import certainly_even, oddities


def text_warnings(rows: Sequence[Row], table: TableName) -> list[Fault]:
    """The faults by TXT-005 and TXT-006 of the rows, at most one of each for a text."""
    together = "\n".join(text for row in rows for text in (row.prompt, *row.responses))
    if certainly_even(together):
        return []
    found = []
    for row in rows:
        names = ["text" if table == "text" else "prompt", *field_names(row)]
        for name, text in zip(names, (row.prompt, *row.responses), strict=True):
            if not certainly_even(text):
                found += [
                    Fault(odd.rule, row.file, row.line, name, odd.seen) for odd in oddities(text)
                ]
    return found
