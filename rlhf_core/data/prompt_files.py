"""Prompts from a file of the user's own, checked by the rules of the data stage."""

from pathlib import Path

from rlhf_core.data.reading import read_table
from rlhf_core.data.rules import RULES, render_faults
from rlhf_core.data.schemas import check_rows
from rlhf_core.errors import DataError
from rlhf_core.settings.data import TableSettings


def prompts_in_file(path: Path) -> list[str]:
    """The prompts of the file's rows, in whatever form they come, each once.

    Raises DataError where a row breaks a rule, and names the row.
    """
    read = read_table(TableSettings(source=str(path)), "prompts", split_by="prompt")
    faults = [*read.faults, *check_rows(read.rows, "prompts")]
    broken = [fault for fault in faults if RULES[fault.rule].action != "warn"]
    broken = [fault for fault in broken if fault.rule != "DUP-001"]
    if broken:
        raise DataError(f"{render_faults(broken)}\nMend these rows, or remove them.")
    return list(dict.fromkeys(row.prompt for row in read.rows))
