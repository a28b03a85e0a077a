"""Environment variables: the one place that reads or sets them.

Owns: what the terminal conventions (NO_COLOR, CI, TERM) say, the one variable that CUDA itself demands, and those of
processes that are started beside one another.
Must not: configure a run; every setting of mptrain is a key of the config or an option of the command line.
"""

from __future__ import annotations

import os


def no_color() -> bool:
    """Tell whether the user asked for output without colours (https://no-color.org)."""
    return bool(os.environ.get("NO_COLOR"))


def in_ci() -> bool:
    """Tell whether a continuous-integration service runs this process."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def dumb_terminal() -> bool:
    """Tell whether the terminal says that it cannot move the cursor."""
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")


def set_cublas_workspace() -> None:
    """Give cuBLAS the fixed workspace that deterministic mode needs, unless one is set; call before CUDA starts."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def child_environment(*, threads: int | None = None, gpu: str | None = None) -> dict[str, str]:
    """Return the variables for a process that shares this machine with others: its CPU threads, its one GPU.

    Threads that the user chose (OMP_NUM_THREADS) stay as they are; None leaves either open.
    """
    variables = dict(os.environ)
    if threads is not None:
        variables.setdefault("OMP_NUM_THREADS", str(threads))
    if gpu is not None:
        variables["CUDA_VISIBLE_DEVICES"] = gpu
    return variables
