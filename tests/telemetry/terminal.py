"""A real pseudo-terminal with a process in it, and the screen that a person would see."""

import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable

import pyte

PATIENCE_S = 60.0


def clean_environment(**changes: str) -> dict[str, str]:
    """Return this process's environment without what changes how consoles behave."""
    left_out = ("CI", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "PYTHONUNBUFFERED")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return kept | {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1"} | changes


class Terminal:
    """Runs a module with stdout and stderr on a pty; stdin is a pipe."""

    def __init__(
        self,
        *args: str,
        module: str = "tests.telemetry.scripted_run",
        columns: int = 100,
        rows: int = 40,
        **environment: str,
    ) -> None:
        self._master, slave = os.openpty()
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self._set_size(columns, rows)
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *args],
            stdin=subprocess.PIPE,
            stdout=slave,
            stderr=slave,
            env=clean_environment(**environment),
        )
        os.close(slave)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self._master >= 0:
            os.close(self._master)

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns: int, rows: int) -> None:
        self._set_size(columns, rows)
        self.screen.resize(rows, columns)

    def close(self) -> None:
        """Take the terminal away from the process."""
        os.close(self._master)
        self._master = -1

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    def text(self) -> str:
        return "\n".join(self.lines()).rstrip()

    def _read(self) -> bool:
        """Feed the screen with what has come; return False at the end."""
        if not select.select([self._master], [], [], 0.1)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux says EIO when the last writer has gone
            return False
        self.raw += data
        self._stream.feed(data)
        return bool(data)

    def wait_until(self, seen: Callable[[str], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not seen(self.text()):
            assert self._read(), f"the process ended first:\n{self.text()}"
            assert time.monotonic() < deadline, f"not seen in time:\n{self.text()}"

    def wait_for(self, pattern: str) -> None:
        self.wait_until(lambda text: re.search(pattern, text) is not None)

    def press_enter(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def finish(self) -> int:
        """Read to the end; return the exit code."""
        while self._read():
            pass
        return self.process.wait(PATIENCE_S)
