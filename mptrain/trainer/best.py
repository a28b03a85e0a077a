"""The best evaluation so far, and how long the run has not got better.

Owns: what an improvement is. Any gain makes a new best, which is saved and reported; only a gain of more than
`min_delta` spares early stopping's patience. Must not: evaluate, save or stop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Best:
    """The best value and where; NaN until there is one."""

    value: float = math.nan
    applied_steps: int = 0
    reference: float = math.nan
    """The last value that gained more than min_delta on the one before it."""
    without_improvement: int = 0
    """Evaluations in a row since `reference`."""

    def consider(self, value: float, applied_steps: int, *, higher_is_better: bool, min_delta: float) -> bool:
        """Take in one evaluation; return whether it is the best so far (never where it is NaN)."""
        if _gain(value, self.reference, higher_is_better) > min_delta:
            self.reference, self.without_improvement = value, 0
        else:
            self.without_improvement += 1
        if _gain(value, self.value, higher_is_better) > 0:
            self.value, self.applied_steps = value, applied_steps
            return True
        return False


def _gain(value: float, over: float, higher_is_better: bool) -> float:
    if math.isnan(over) and not math.isnan(value):
        return math.inf
    return value - over if higher_is_better else over - value
