"""What a process of the fuzzer does: search in a world of its own, and leave word of what it tries.

Owns: the process's world, and its end where nothing else can interrupt a case. Must not: print, or judge.
"""

from __future__ import annotations

import faulthandler
import tempfile
from functools import cache
from pathlib import Path

import torch

from tests.fuzz.case import Case
from tests.fuzz.search import Searched, search
from tests.fuzz.world import World

CURRENT = "current.json"
"""The case that is running, in the world's folder: what is left of a case that takes the process down."""
_GIVE_UP = 60
"""Seconds after which a process that not even the watchdog could interrupt shows where it stands, and ends."""


@cache
def _world(folder: str) -> tuple[World, Path]:
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(dir=folder))
    return World(root), root / CURRENT


def run_batch(kind: str, cases: int, seed: int, folder: str) -> Searched:
    """Search in this process's own world, which is somewhere under `folder`."""
    world, current = _world(folder)

    def before(case: Case) -> None:
        current.write_text(case.to_json())
        faulthandler.dump_traceback_later(_GIVE_UP, exit=True)

    try:
        return search(world, kind, cases, seed, before)
    finally:
        faulthandler.cancel_dump_traceback_later()
        current.unlink(missing_ok=True)
