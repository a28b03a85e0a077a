"""Learning-rate schedules as pure functions: applied step (from 0) -> factor of the peak rate. No torch, no state."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from mptrain.errors import ConfigError
from mptrain.interfaces import Schedule


def with_warmup(warmup_steps: int, decay: Schedule, total_steps: int) -> Schedule:
    """Rise linearly to the peak over `warmup_steps`, then follow `decay` from its own step 0."""
    if warmup_steps >= total_steps and warmup_steps > 0:
        raise ConfigError(
            f"schedule.warmup_steps: {warmup_steps} leaves nothing of the run's {total_steps} steps; make it smaller"
        )

    def factor(step: int) -> float:
        return (step + 1) / (warmup_steps + 1) if step < warmup_steps else decay(step - warmup_steps)

    return factor


def constant() -> Schedule:
    """Return the factor 1 for ever."""
    return lambda step: 1.0


def linear(total_steps: int, end_factor: float) -> Schedule:
    """Fall on a straight line from 1 to `end_factor`, reached at step total_steps - 1."""
    last = max(total_steps - 1, 1)
    return lambda step: 1.0 + (end_factor - 1.0) * min(step / last, 1.0)


def cosine(total_steps: int, end_factor: float) -> Schedule:
    """Fall on half a cosine from 1 to `end_factor`, reached at step total_steps - 1."""
    last = max(total_steps - 1, 1)
    return lambda step: _cosine_between(1.0, end_factor, min(step / last, 1.0))


def polynomial(total_steps: int, power: float) -> Schedule:
    """Fall as (1 - step / total_steps)^power: DeepLab's "poly" (Chen et al. 2017, arXiv 1706.05587, section 4.1)."""
    return lambda step: max(1.0 - step / max(total_steps, 1), 0.0) ** power


def inverse_sqrt(peak_step: int) -> Schedule:
    """Fall as the inverse square root of the steps of the run, 1 at its step `peak_step`, where the schedule begins.

    With a warm-up of `peak_step` before it, the curve of Vaswani et al. 2017 (arXiv 1706.03762, equation 3).
    """
    return lambda step: math.sqrt((peak_step + 1) / (peak_step + 1 + step))


def step(step_size: int, gamma: float) -> Schedule:
    """Multiply by `gamma` every `step_size` steps."""
    return lambda step: gamma ** (step // step_size)


def multi_step(milestones: Sequence[int], gamma: float) -> Schedule:
    """Multiply by `gamma` at each of the rising `milestones`."""
    return lambda step: gamma ** bisect_right(milestones, step)


def one_cycle(total_steps: int, warmup_fraction: float, start_divisor: float, end_divisor: float) -> Schedule:
    """Rise on a cosine from 1/start_divisor to 1, then fall to 1/(start_divisor * end_divisor).

    The curve of `torch.optim.lr_scheduler.OneCycleLR` (Smith and Topin 2017, arXiv 1708.07120), without its cycling
    of momentum.
    """
    first, last = 1.0 / start_divisor, 1.0 / (start_divisor * end_divisor)
    peak_at = float(warmup_fraction * total_steps) - 1.0
    end_at = max(total_steps - 1, 1)

    def factor(step: int) -> float:
        if step <= peak_at:
            return _cosine_between(first, 1.0, step / peak_at if peak_at > 0 else 1.0)
        return _cosine_between(1.0, last, min((step - peak_at) / (end_at - peak_at), 1.0))

    return factor


def _cosine_between(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2.0 * (math.cos(math.pi * progress) + 1.0)
