"""Faults beside the number of their row, by which they are put in order."""

from typing import NamedTuple

from rlhf_core.data.faults import Fault


class NumberedFault(NamedTuple):
    """A fault and the number of its row."""

    number: int
    fault: Fault
