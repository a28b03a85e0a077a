"""Who is at work in a run directory: one process at a time, and what became of the last one.

Owns: the lock file. Must not: import torch, or read any other file but result.json.

The lock is the system's (`flock`), held by the open file: it is gone with the process, however that ended, so a stale
one needs no recognising. What stands in the file is for people.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from mptrain.durable import read_regular
from mptrain.errors import CapabilityError, ConfigError

try:
    import fcntl
except ImportError:  # no POSIX: a run directory is not guarded there
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
ASKING_S = 0.1
"""More than `is_held` keeps the lock that it asks by."""
_held: set[int] = set()


def _let_go() -> None:
    """Close what a forked loader process inherited: one that outlives its parent would hold the folder."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def hold(run_dir: Path) -> Iterator[None]:
    """Hold a run's folder, made here if need be, for this process alone.

    Raises ConfigError where another process holds it, CapabilityError where it cannot be written.
    """
    descriptor = _locked(run_dir)
    _held.add(descriptor)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the folder may have vanished
            (run_dir / LOCK).unlink()  # while it is held: who waits for it looks whether it still is the file
        _held.discard(descriptor)
        os.close(descriptor)


def _locked(run_dir: Path) -> int:
    """Return the descriptor of the lock file, locked and signed."""
    while True:
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            said = "free space or permissions there, or choose another --output-dir"
            raise CapabilityError(f"cannot write {run_dir}: {error.strerror}; {said}") from error
        if not _lock(descriptor) and not _lock_after_askers(descriptor):
            holder = _holder(descriptor)
            os.close(descriptor)
            raise ConfigError(
                f"{run_dir} is in use by {holder}; wait for its end, or start a run with another --run-id"
            )
        if _is_still(descriptor, run_dir / LOCK):
            _sign(descriptor)
            return descriptor
        os.close(descriptor)  # the process that held it has just ended, and removed the file


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def run_status(run_dir: Path) -> str:
    """Return a run's status: that of result.json, `running` while a process holds it, or else `killed`."""
    return "running" if is_held(run_dir) else last_status(run_dir)


def last_status(run_dir: Path) -> str:
    """Return how the last process of a run ended: the status of its result.json, `killed` where it left none."""
    try:
        return str(json.loads(read_regular(run_dir / "result.json"))["status"])
    except (OSError, ValueError, KeyError, TypeError):
        return "killed"


def is_held(run_dir: Path) -> bool:
    """Say whether a living process is at work in a run's folder; the right to read it is enough."""
    try:
        descriptor = os.open(run_dir / LOCK, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe would be waited for
    except OSError:
        return False
    try:
        return not _lock(descriptor, shared=True)  # two who ask at once do not see each other
    finally:
        os.close(descriptor)


def _lock_after_askers(descriptor: int) -> bool:
    time.sleep(ASKING_S)
    return _lock(descriptor)


def _lock(descriptor: int, *, shared: bool = False) -> bool:
    """Take the lock; return whether it was free. A file system without locks guards nothing."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _sign(descriptor: int) -> None:
    """Write who holds the lock."""
    since = datetime.now().isoformat(timespec="seconds")
    signature = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
    with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(signature).encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        signed = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {signed['pid']} on {signed['host']} since {signed['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
