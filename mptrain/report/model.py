"""What a report says, as plain frozen values: what `compare.py` fills in, and the table and the pages show.

Owns: the types. Must not: read files, compute statistics, or choose words. Every figure of every view comes from here,
so that the terminal, the CSV, the JSON and the pictures cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Outcome = Literal["identical", "same", "better", "worse", "unclear", "failed"]
"""identical: every paired run has the baseline's metric, bit for bit. same: no difference beyond the noise floor.
unclear: too few seeds, or too much spread, to tell. failed: runs that did not end as ok, or have no metric."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A value over applied steps, thinned to a few hundred points; None where it was not finite."""

    steps: tuple[int, ...] = ()
    values: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True)
class GradientHistogram:
    """How many gradient elements have which magnitude, as the format of the backward holds them (loss scale included).

    `counts[i]` elements lie in [2^(first_exponent + i), 2^(first_exponent + i + 1)).
    """

    format: str
    first_exponent: int
    counts: tuple[int, ...]
    zeros: int
    smallest_subnormal: float
    smallest_normal: float
    largest: float
    """The three magnitudes that bound `format`."""
    loss_scale: float


@dataclass(frozen=True, slots=True)
class Member:
    """One run of a variant."""

    path: str
    seed: int | None
    status: str
    """That of result.json, `running` or `killed`."""
    error: str | None
    metric: float | None
    """The main metric of the last evaluation; None where there is none or it was not finite."""
    train_loss: float | None
    seconds_to_target: float | None
    """Training time until an evaluation was at least as good as the baseline's mean metric; None: never, or unknown."""
    samples_per_s: float | None
    """None: not measured, or emulated, whose speed says nothing."""
    step_time_ms: float | None
    peak_memory_bytes: int | None
    skipped_steps: int | None
    attempted_steps: int | None
    final_loss_scale: float | None
    data_wait_fraction: float | None
    wall_s: float | None
    emulated: bool
    loss: Curve = Curve()
    metric_curve: Curve = Curve()
    loss_scale: Curve = Curve()
    skips: tuple[int, ...] = ()
    """Attempted steps that were skipped."""
    gradients: GradientHistogram | None = None
    """The newest sample of the run."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with its 95% interval (Student's t); no interval from one seed."""

    mean: float
    low: float | None
    high: float | None
    deviation: float | None
    """Sample standard deviation."""
    n: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """A variant's metric against the baseline's."""

    outcome: Outcome
    difference: Estimate | None
    """Variant minus baseline, over seeds that both have (paired), else of two means (Welch)."""
    paired: bool
    p_value: float | None
    """Two-sided, adjusted over the variants of the ladder (Holm)."""
    seeds_needed: int | None
    """About how many seeds would resolve a difference as large as the noise floor; set where the outcome is unclear."""


@dataclass(frozen=True, slots=True)
class Variant:
    """The runs that differ in nothing but their seed."""

    label: str
    """What sets it apart within its ladder, e.g. `bf16-pure, rounding=kahan`."""
    settings: Mapping[str, Any]
    """The dotted keys that differ within the report, with this variant's values."""
    precision: str
    """What was in force, one line."""
    is_baseline: bool
    members: tuple[Member, ...]
    metric: Estimate | None
    train_loss: Estimate | None
    samples_per_s: Estimate | None
    peak_memory_bytes: Estimate | None
    seconds_to_target: Estimate | None
    skipped_steps: Estimate | None
    speedup: float | None
    """Against the baseline, of mean samples per second; None where either is unknown."""
    memory_ratio: float | None
    statuses: Mapping[str, int]
    comparison: Comparison | None
    """None for the baseline itself, or where there is none."""
    verdict: str
    """One sentence."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """Variants that are compared with one another: all else (model, data, rate, ...) is the same."""

    title: str
    metric: str
    """Name of the main metric."""
    higher_is_better: bool
    as_points: bool
    """True: a share of 1, shown in percentage points."""
    noise_floor: float | None
    """Seed-to-seed standard deviation of the baseline's metric; None from one seed."""
    baseline: str | None
    """Label of the baseline."""
    variants: tuple[Variant, ...]
    """The baseline first."""
    common: Mapping[str, Any]
    """Settings that all its variants share and that differ from another ladder's."""
    environment: Mapping[str, Any]
    """Device, versions, TF32 state; a list of values where runs differ."""
    notes: tuple[str, ...]
    """What a reader must know: seeds that are missing, machines that differ, loader-bound or emulated speed."""
    recommendation: str = ""
    """Which variant to use, one sentence; empty where there is no baseline."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a report shows."""

    ladders: tuple[Ladder, ...]
    problems: tuple[str, ...]
    """Run folders that could not be read, each with its reason."""
    made_with: str
    """E.g. `mptrain 0.1.0`."""
