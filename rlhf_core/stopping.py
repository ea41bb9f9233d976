"""Ending a training loop on request: after the step at hand, with everything saved."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What asks a process to end: the system's or a scheduler's stop, and Ctrl-C."""


class StopRequest:
    """Whether the process was asked to end; a loop looks at it after each of its steps."""

    def __init__(self) -> None:
        self._signum = 0
        self._listeners = 0

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

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT as requests while a loop runs, then as before.

        Only a main thread can change who takes signals; elsewhere the command's own handler has to
        call `request`.
        """
        self._listeners += 1
        before = {}
        if threading.current_thread() is threading.main_thread():
            before = {signum: signal.signal(signum, self._take) for signum in SIGNALS}
        try:
            yield
        finally:
            self._listeners -= 1
            for signum, handler in before.items():
                with suppress(TypeError):  # a handler that was not set from Python
                    signal.signal(signum, handler)

    def _take(self, signum: int, _frame: FrameType | None) -> None:
        self.request(signum)


PROCESS = StopRequest()
"""The request to this process, which the command's signal handlers and the loops share."""
