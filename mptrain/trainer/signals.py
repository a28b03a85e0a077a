"""Turns SIGTERM, SIGUSR1 and Ctrl-C into a request to stop after the step; a second Ctrl-C leaves at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType

from mptrain.errors import Interrupted

_REQUESTS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """A context in which `requested` becomes the signal's name once one has arrived."""

    requested: str | None = None

    def __enter__(self) -> StopRequest:
        self._owner = os.getpid()
        on_main_thread = threading.current_thread() is threading.main_thread()  # Python allows handlers only there
        numbers = _REQUESTS if on_main_thread else ()
        self._previous = {number: signal.signal(number, self._on_signal) for number in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return  # a forked loader worker: its parent decides
        if number == signal.SIGINT and self.requested == "SIGINT":
            raise Interrupted("interrupted twice; left at once, the last checkpoint stands")
        self.requested = signal.Signals(number).name
