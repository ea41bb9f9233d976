"""What can be mended: errors whose message tells the user what was found and what to do.

The command prints the message without a traceback and ends with `exit_code`.
"""

from collections.abc import Mapping
from typing import Any


class RlhfError(Exception):
    """A fault with a sentence for the user; `exit_code` is what the command ends with."""

    exit_code = 1


class UserError(RlhfError):
    """What the user gave cannot be used."""

    exit_code = 2


class RecipeError(UserError):
    """The recipe, or a `--set` override, cannot be used."""


class DataError(UserError):
    """Rows or files of the data cannot be used."""


class ModelError(UserError):
    """A base model or tokenizer cannot be used."""


class ArtifactError(UserError):
    """An artifact is missing, damaged, or of another stage than the one needed."""


class TrainingStopped(RlhfError):
    """Training was stopped by its own guard: going on could not have been right.

    `diagnosis` is what `diagnosis.json` says of it, beside the message.
    """

    exit_code = 3

    def __init__(self, message: str, diagnosis: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.diagnosis: Mapping[str, Any] = diagnosis or {}


class StorageError(RlhfError):
    """The store cannot be written: disk full, read-only or damaged."""

    exit_code = 4


class ServiceError(RlhfError, ConnectionError):
    """A service that the recipe names does not answer: the same may work a minute later."""

    exit_code = 2


class MemoryExhausted(RlhfError):
    """The process could not have the memory that a stage needs."""

    exit_code = 5


class Stopped(RlhfError):
    """The process was asked to end by a signal, and training has saved its state and ended."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum
        self.exit_code = 128 + signum
