"""Prompts from a file of the user's own, checked by the rules of the data stage."""

from pathlib import Path
from tempfile import TemporaryDirectory

from rlhf_core.data.disk_room import TO_EXAMINE
from rlhf_core.data.faults import Fault, render_faults
from rlhf_core.data.reading import TableReader
from rlhf_core.data.rules import RULES
from rlhf_core.data.schemas import check_batch
from rlhf_core.errors import DataError
from rlhf_core.settings.data import TableSettings


def prompts_in_file(path: Path) -> list[str]:
    """The prompts of the file's rows, in whatever form they come, each once.

    Raises DataError where a row breaks a rule, and names the row.
    """
    settings = TableSettings(source=str(path))
    prompts: dict[str, None] = {}
    faults: list[Fault] = []
    with TemporaryDirectory() as folder:
        reader = TableReader(
            settings, "prompts", split_by="prompt", scratch=Path(folder), disk_share=TO_EXAMINE
        )
        for rows, unreadable in reader.batches():
            prompts.update(dict.fromkeys(row.prompt for row in rows.rows))
            faults += [fault for _, fault in (*unreadable, *check_batch(rows, "prompts"))]
        reader.places.remove()
    broken = [fault for fault in faults if RULES[fault.rule].action != "warn"]
    if broken:
        raise DataError(f"{render_faults(broken)}\nMend these rows, or remove them.")
    return list(prompts)
