"""Seeds and random state: Python, NumPy and torch, as data that a checkpoint can hold.

Owns: these, of every generator. Must not: know when they are taken or put back.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

_NUMPY_WORDS = 624
"""Of the Mersenne Twister, NumPy's legacy generator; the next to be read is at `position`, none where it is this."""


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of every generator as plain numbers and tensors; on one core that takes some 80 us."""
    numpy_state: Any = np.random.get_state(legacy=True)
    name, keys, position, has_gauss, gauss = numpy_state
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Take over a saved state; a CUDA state is used only where the run still is on CUDA.

    Raises ValueError for a position that NumPy's generator cannot have: NumPy would read beyond its own memory.
    """
    position = state["numpy"][2]
    if not 0 <= position <= _NUMPY_WORDS:
        raise ValueError(f"NumPy's random state has position {position}, beyond its {_NUMPY_WORDS} words")
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
