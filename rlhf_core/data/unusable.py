"""The error inside the reading of one row."""

from rlhf_core.data.faults import Fault


class UnusableError(Exception):
    """A row breaks a rule; whoever knows its file and line makes the fault of it."""

    def __init__(self, rule: str, field: str, seen: str) -> None:
        super().__init__(f"{rule} {field}: {seen}")
        self.rule, self.field, self.seen = rule, field, seen

    def fault(self, file: str, line: int) -> Fault:
        """The same, with where it stood."""
        return Fault(self.rule, file, line, self.field, self.seen)
