"""The global random states that other libraries draw from: seeded for a while, then as they were.

Owns: that, for torch's CPU generator, `random` and NumPy. Must not: touch a GPU's generator.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Restore the states on the way out."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])


def seed_cpu_states(seed: int) -> None:
    """Seed all three states with `seed` (63 bits)."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reset the GPU's generators too
    random.seed(seed)
    np.random.seed(seed % 2**32)
