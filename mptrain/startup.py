"""Start-up without garbage collection: importing torch and building a model makes a million objects that all stay.

Owns: when the collector runs in a process of the command line. Measured: `import torch` with its compiler takes 2.0 s
of CPU in place of 2.5 s. Objects that stay are frozen afterwards, so that no later collection walks them either.
"""

from __future__ import annotations

import gc

_paused = False


def pause_collection() -> None:
    """Stop collecting until `resume_collection`; only the command line calls it, never an import of mptrain."""
    global _paused
    _paused = gc.isenabled()
    gc.disable()


def resume_collection() -> None:
    """Collect again, what there is by now excepted; does nothing where `pause_collection` did not stop it."""
    global _paused
    if _paused:
        gc.freeze()
        gc.enable()
        _paused = False
