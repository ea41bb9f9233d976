"""What the field of a fault is called in the file that the row came from."""

from collections.abc import Mapping

from rlhf_core.data.faults import Fault
from rlhf_core.data.row_forms import Form

_WITHIN: Mapping[Form, Mapping[str, str]] = {
    "messages": {"prompt": "messages", "response": "messages"},
    "transcripts": {"prompt": "chosen"},
    "text": {"prompt": "text", "response": "text"},
}
"""Of forms whose columns hold more than one of our fields: in which each of these stands."""


def in_the_file(fault: Fault, form: Form, columns: Mapping[str, str]) -> Fault:
    """The fault with the file's name for its field; `columns` are those that the file renames."""
    field = _WITHIN.get(form, {}).get(fault.field, fault.field)
    name, bracket, place = field.partition("[")
    theirs = f"{columns.get(name, name)}{bracket}{place}"
    return fault if theirs == fault.field else fault._replace(field=theirs)
