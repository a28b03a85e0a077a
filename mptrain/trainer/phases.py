"""Which stretch of the run is trained in which precision.

Owns: the applied steps at which `precision.phases` change. Must not: build or change anything (`build.py`,
`trainer.py`).
"""

from __future__ import annotations

import math
from fractions import Fraction

from mptrain.config.precision import PrecisionConfig
from mptrain.errors import ConfigError


def phase_ends(config: PrecisionConfig, total_steps: int) -> list[int]:
    """Return the step at which each phase ends; a run without phases is one phase.

    Raises ConfigError for phases that are over before they begin, or that leave the end of the run without one.
    """
    if not config.phases:
        return [total_steps]
    ends = [_end(phase.until, total_steps) for phase in config.phases]
    for phase, begin, end in zip(config.phases, [0, *ends], ends, strict=False):
        if end <= begin or begin >= total_steps:
            raise ConfigError(
                f"precision.phases: until {phase.until:g} ends at step {end} of {total_steps}, and the phase "
                f"would begin at {begin}; give phases that follow one another within the run"
            )
    if ends[-1] < total_steps:
        raise ConfigError(
            f"precision.phases: the last phase ends at step {ends[-1]} of {total_steps}; give it until: 1.0"
        )
    return ends


def _end(until: float, total_steps: int) -> int:
    # As the decimal that was written: 0.55 of 100 steps is 55, where the product of floats is 55.00000000000001.
    exact = Fraction(str(until))
    return math.ceil(exact * total_steps if exact <= 1 else exact)


def precisions(config: PrecisionConfig) -> list[PrecisionConfig]:
    """Return the precision of each phase; a run without phases is one phase."""
    if not config.phases:
        return [config]
    return [config.model_copy(update={"mode": p.mode, "rounding": p.rounding, "phases": ()}) for p in config.phases]


def precision_at(config: PrecisionConfig, steps_done: int, total_steps: int) -> tuple[PrecisionConfig, int]:
    """Return the precision in which the step after `steps_done` is trained, and the step at which it changes next.

    The end of the run is no change: the last phase's end is never reached before it.
    """
    ends = phase_ends(config, total_steps)
    index = next((index for index, end in enumerate(ends) if steps_done < end), len(ends) - 1)
    end = ends[index] if index < len(ends) - 1 else max(total_steps, ends[index]) + 1
    return precisions(config)[index], end
