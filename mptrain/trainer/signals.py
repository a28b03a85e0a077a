"""Signals: before training they end the run where it stands, in training they ask it to stop after the step, and
while its end is recorded they wait.

Owns: the handlers. Signals that are ignored stay ignored (nohup), and so do those that a system does not have.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType

from mptrain.errors import Interrupted, Preempted

_REQUESTS = ("SIGTERM", "SIGUSR1", "SIGHUP", "SIGINT")


class StoppedBySignal(BaseException):
    """A signal arrived before there was anything to save; no `except Exception` on the way may take it for its own."""

    def ending(self) -> Preempted:
        """Return the ending that it is."""
        return Preempted(f"stopped by {self} before the first step; nothing is lost, start it again")


class _Handling:
    """A context in which `_on_signal` receives the signals."""

    _names: tuple[str, ...] = _REQUESTS

    def __enter__(self) -> None:
        self._owner = os.getpid()
        on_main_thread = threading.current_thread() is threading.main_thread()  # Python allows handlers only there
        present = [getattr(signal, name) for name in self._names if on_main_thread and hasattr(signal, name)]
        heeded = [number for number in present if signal.getsignal(number) is not signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._receive) for number in heeded}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._owner:  # else a forked loader worker: its parent decides
            self._on_signal(signal.Signals(number).name)

    def _on_signal(self, name: str) -> None:
        raise NotImplementedError


class StopAtOnce(_Handling):
    """A context that a signal leaves with StoppedBySignal; Ctrl-C stays Python's KeyboardInterrupt."""

    _names = tuple(name for name in _REQUESTS if name != "SIGINT")

    def _on_signal(self, name: str) -> None:
        raise StoppedBySignal(name)


class StopRequest(_Handling):
    """A context in which `requested` becomes the signal's name; a second Ctrl-C leaves at once with Interrupted."""

    requested: str | None = None

    def __enter__(self) -> StopRequest:  # type: ignore[override]
        super().__enter__()
        return self

    def _on_signal(self, name: str) -> None:
        if name == "SIGINT" and self.requested == "SIGINT":
            raise Interrupted("interrupted twice; left at once, the last checkpoint stands")
        self.requested = name


class Undisturbed(_Handling):
    """A context that no signal leaves: it is short, and ends the process anyway."""

    def __enter__(self) -> None:
        super().__enter__()
        if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
            # torch raises from this handler when a loader process dies, wherever the main thread then stands. It stays
            # off: the run is over, and its loaders are about to go.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def _on_signal(self, name: str) -> None:
        """Do nothing."""
