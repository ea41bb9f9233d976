"""Ending a training loop on request: after the step at hand, with everything saved."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from rlhf_core.errors import Stopped

Answer = Callable[[int, FrameType | None], None]
"""What a process does when a signal comes."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What asks a process to end: the system's or a scheduler's stop, and Ctrl-C."""


class StopRequest:
    """Whether the process was asked to end; a loop looks at it after each of its steps."""

    def __init__(self) -> None:
        self._signum = 0
        self._listeners = 0
        self._answer: Answer | None = None

    @property
    def signum(self) -> int:
        """The signal that asked, or 0."""
        return self._signum

    @property
    def is_listened_to(self) -> bool:
        """Whether a loop is running that will look."""
        return self._listeners > 0

    def request(self, signum: int) -> None:
        """Ask for the end after the step at hand; the second time the process ends here and now.

        Nothing is torn by that: whatever is being saved is not there until it is there whole.
        """
        if self._signum:
            os._exit(128 + signum)
        self._signum = signum

    def answer_with(self, answer: Answer) -> None:
        """The command answers SIGTERM and SIGINT so; in a process without a command nobody does."""
        self._answer = answer
        for signum in SIGNALS:
            signal.signal(signum, answer)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """While the block runs the command's answer holds, whatever a library has put in its place.

        Prefect's own handler raises inside its engine and tells nobody which signal came; what its
        engine makes of that may be any exception.
        """
        if self._answer is None:
            yield
            return
        with _taken_by(self._answer):
            yield

    def end_if_asked(self) -> None:
        """Leave, if the process was asked to and whatever the signal raised has been swallowed."""
        if self._signum:
            self.end()

    def end(self) -> NoReturn:
        """Leave by what no `except Exception` takes for a fault, as the signal asks."""
        if self._signum == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self._signum)

    def has_ended(self, error: BaseException) -> bool:
        """Whether the error is the end that was asked for, in whatever a library wrapped it."""
        return isinstance(error, Stopped) or not isinstance(error, Exception) or bool(self._signum)

    def reason(self, error: BaseException) -> str:
        """Why a run ended with this error: the signal's name, or what the error says."""
        if self._signum and not isinstance(error, Stopped):
            return f"ended by {signal.Signals(self._signum).name}"
        return str(error) or type(error).__name__

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT as requests while a loop runs, then as before.

        Only a main thread can change who takes signals; elsewhere the command's own handler has to
        call `request`.
        """
        self._listeners += 1
        try:
            with _taken_by(self._take):
                yield
        finally:
            self._listeners -= 1

    def _take(self, signum: int, _frame: FrameType | None) -> None:
        self.request(signum)


@contextmanager
def _taken_by(answer: Answer) -> Iterator[None]:
    """In a main thread, which alone can change it, `answer` takes the signals in the block."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {signum: signal.signal(signum, answer) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            with suppress(TypeError):  # a handler that was not set from Python
                signal.signal(signum, handler)


PROCESS = StopRequest()
"""The request to this process, which the command's signal handlers and the loops share."""
