"""Step times in interleaved rounds: ABC, BCA, CAB, ..., so that a slow minute hits all modes alike.

Owns: warm-up, how many steps are timed, the order, and the statistics. Must not: know why a mode is slow.

A round builds a mode afresh, warms it up and times its steps one by one: between CUDA events recorded on the device, or
by the host's clock on a CPU. A speed-up is the median over rounds of FP32's median step time by the mode's in the same
round; its range is that of the rounds.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from mptrain.bench.modes import BASELINE, Contestant
from mptrain.bench.stand import MOST_STEPS, Built, Stand, synchronize
from mptrain.errors import MptrainError
from mptrain.trainer.memory import peak_memory_bytes, reset_peak_memory
from mptrain.trainer.memory_plan import held_bytes

WARMUP_STEPS = 3
"""As many as `mptrain run` leaves out of its speed."""
_PATIENCE = 2
"""A round ends early at so many times its time."""


@dataclass(frozen=True)
class Settings:
    """How long a bench takes."""

    repeats: int
    seconds: float
    """Time for a mode's timed steps, over all rounds."""
    steps: int | None = None
    """Timed steps of a round; None: as many as the time allows."""

    @property
    def round_s(self) -> float:
        """Return the time of one round of one mode."""
        return self.seconds / self.repeats


@dataclass(frozen=True)
class Round:
    """The timed steps of one mode in one round."""

    number: int
    warmup_steps: int
    step_ms: list[float]
    skipped: int

    @property
    def median_ms(self) -> float:
        """Return the median step time."""
        return statistics.median(self.step_ms)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return {
            "round": self.number,
            "warmup_steps": self.warmup_steps,
            "steps": len(self.step_ms),
            "skipped_steps": self.skipped,
            **quantiles(self.step_ms),
        }


@dataclass
class Timed:
    """What is known of one mode's step."""

    contestant: Contestant
    problem: MptrainError | None = None
    rounds: list[Round] = field(default_factory=list)
    steps: int = 0
    """Timed steps of each round, fixed in the first."""
    peak_bytes: int | None = None
    """On a GPU, of the first round."""
    held: dict[str, int] | None = None
    line: str = ""
    """What precision is in force, in words."""
    notices: tuple[str, ...] = ()
    micro_batch: int | None = None
    """Samples that were computed on at a time, where memory or the config cut the batch."""

    @property
    def step_ms(self) -> list[float]:
        """Return all timed steps."""
        return [ms for round_ in self.rounds for ms in round_.step_ms]

    @property
    def median_ms(self) -> float | None:
        """Return the median of all timed steps."""
        return statistics.median(self.step_ms) if self.rounds else None


def run_rounds(
    stand: Stand, contestants: Sequence[Contestant], settings: Settings, say: Callable[[str], None]
) -> tuple[list[Timed], list[list[str]]]:
    """Time all modes; return what was found of each, and the order in which each round ran them.

    A mode that fails takes part in no further round, nor does one of which a single step outlasts a round.
    """
    found = [Timed(contestant) for contestant in contestants]
    orders = []
    for number in range(settings.repeats):
        shift = number % len(found)
        order = [timed for timed in found[shift:] + found[:shift] if timed.problem is None]
        order = [timed for timed in order if number == 0 or timed.step_ms[-1] / 1e3 <= settings.round_s]
        if not order:
            break
        orders.append([timed.contestant.name for timed in order])
        for timed in order:
            timed.problem = stand.attempt(partial(_round, stand, timed, settings, number))
            if timed.problem:
                timed.rounds.clear()
            said = str(timed.problem) if timed.problem else f"{timed.rounds[-1].median_ms:9.2f} ms a step"
            say(f"round {number + 1}/{settings.repeats}  {timed.contestant.name:<22} {said}")
    return found, orders


def _round(stand: Stand, timed: Timed, settings: Settings, number: int) -> None:
    reset_peak_memory(stand.device)
    with stand.built(timed.contestant) as built:
        warmup, step_s = warm_up(built, stand.device, settings.round_s)
        timed.steps = timed.steps or settings.steps or steps_within(settings.round_s, step_s)
        before = built.skipped()
        limit_s = math.inf if settings.steps else _PATIENCE * settings.round_s
        step_ms = time_steps(built, timed.steps, stand.device, limit_s)
        timed.rounds.append(Round(number + 1, warmup, step_ms, built.skipped() - before))
        if number == 0:
            _note(stand, timed, built)


def _note(stand: Stand, timed: Timed, built: Built) -> None:
    timed.held = held_bytes(built.run.parts).as_dict()
    timed.line, timed.notices = built.run.in_force.line(), built.run.notices
    timed.micro_batch = built.micro_batch.size
    if stand.device.type == "cuda":
        timed.peak_bytes = peak_memory_bytes(stand.device)


def warm_up(built: Built, device: torch.device, limit_s: float) -> tuple[int, float]:
    """Take the steps that no figure counts; return how many, and the seconds of the last one.

    Where a step takes long, one is enough: what warming up saves is small beside it.
    """
    took: list[float] = []
    while len(took) < WARMUP_STEPS and sum(took) < limit_s:
        began = time.perf_counter()
        built()
        synchronize(device)
        took.append(time.perf_counter() - began)
    return len(took), took[-1]


def steps_within(seconds: float, step_s: float) -> int:
    """Return how many steps to time: as many as fit, at least one."""
    return max(1, min(int(seconds / step_s), MOST_STEPS - WARMUP_STEPS))


def time_steps(step: Callable[[], None], count: int, device: torch.device, limit_s: float = math.inf) -> list[float]:
    """Return the milliseconds of each of `count` steps, from its predecessor's end to its own.

    After `limit_s` no further step is begun: a machine that others began to use meanwhile must not hold the bench up.
    """
    if device.type == "cuda":
        return _time_on_gpu(step, count, device)
    marks = [time.perf_counter()]
    while len(marks) <= count and (len(marks) == 1 or marks[-1] - marks[0] < limit_s):
        step()
        marks.append(time.perf_counter())
    return [1e3 * (end - begin) for begin, end in itertools.pairwise(marks)]


def _time_on_gpu(step: Callable[[], None], count: int, device: torch.device) -> list[float]:
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    torch.cuda.synchronize(device)
    marks[0].record()
    for mark in marks[1:]:
        step()
        mark.record()
    torch.cuda.synchronize(device)
    return [begin.elapsed_time(end) for begin, end in itertools.pairwise(marks)]


def quantiles(step_ms: Sequence[float]) -> dict[str, float]:
    """Return median, 10th and 90th percentile, linear between neighbours; of one value, that value."""
    if len(step_ms) == 1:
        return dict.fromkeys(("median_ms", "p10_ms", "p90_ms"), step_ms[0])
    tenths = statistics.quantiles(step_ms, n=10, method="inclusive")
    return {"median_ms": statistics.median(step_ms), "p10_ms": tenths[0], "p90_ms": tenths[8]}


def speed_up(timed: Timed, found: Sequence[Timed]) -> dict[str, Any] | None:
    """Return how many times as fast as FP32 a mode is; None for FP32, emulation, and where either was not timed."""
    base = next(other for other in found if other.contestant.mode == BASELINE)
    if timed is base or timed.contestant.emulated or base.contestant.emulated:
        return None
    of_base = {round_.number: round_.median_ms for round_ in base.rounds}
    ratios = [of_base[r.number] / r.median_ms for r in timed.rounds if r.number in of_base]
    if not ratios:
        return None
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios), "rounds": ratios}
