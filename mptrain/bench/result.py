"""A bench's result as data: every figure of the JSON, from what was measured.

Owns: the fields, and the figures that follow from several measurements (utilisation, endings, warnings). Must not:
measure, or word a reason (`reasons.py`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mptrain.bench.memory import Largest
from mptrain.bench.modes import BASELINE, LeftOut, lacking
from mptrain.bench.products import Products
from mptrain.bench.rates import Rate
from mptrain.bench.reasons import Figures, explanation, reasons
from mptrain.bench.shares import Shares
from mptrain.bench.stand import Stand
from mptrain.bench.timing import WARMUP_STEPS, Settings, Timed, quantiles
from mptrain.errors import CapabilityError, ConfigError, MptrainError, OutOfMemoryError
from mptrain.trainer.build import describe_device
from mptrain.trainer.environment_report import devices, versions
from mptrain.trainer.materials import describe_data, describe_model

_BUSY = 0.5
"""A load of more than this per core before the bench is warned of."""
_MOST_MFU = 1.1
"""A step that is faster than large products runs on other kernels than these: their rate is no measure of it."""
_NOISY = 0.1
"""A spread of more than this among rounds is warned of."""


@dataclass
class Row:
    """Everything found of one mode."""

    timed: Timed
    speed_up: dict[str, Any] | None = None
    shares: Shares | None = None
    activations: int | None = None
    largest: Largest | None = None
    computed: str | None = None
    """The one format of all its products; None: several, or operands of their own."""


@dataclass
class Rates:
    """Operations a second by format: of large products, and of the model's heaviest product."""

    large: dict[str, Rate]
    own: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return {
            "flops_per_s": {fmt: rate.flops_per_s for fmt, rate in self.large.items()},
            "of": {fmt: rate.of for fmt, rate in self.large.items()},
            "heaviest_product_flops_per_s": self.own,
        }


@dataclass(frozen=True)
class Found:
    """Everything that a bench found."""

    stand: Stand
    settings: Settings
    rows: Sequence[Row]
    """One for each mode, FP32 first."""
    products: Products
    rates: Rates
    loader: float
    """Samples a second."""
    orders: list[list[str]]
    left_out: list[LeftOut]
    load: float | None
    """The system's load average before the bench."""

    @property
    def tf32_speed_up(self) -> float | None:
        """Return what TF32 brought, where it was measured."""
        return next((r.speed_up["median"] for r in self.rows if r.speed_up and r.timed.contestant.mode == "tf32"), None)


def result_of(found: Found) -> dict[str, Any]:
    """Return the whole result, JSON-able."""
    stand, config = found.stand, found.stand.config
    modes = [_mode(found, row) for row in found.rows]
    fastest = max((mode["samples_per_s"] or 0.0 for mode in modes if not mode["emulated"]), default=0.0)
    ending = _ending([row.timed for row in found.rows])
    return {
        "schema": 1,
        "status": ending.status if ending else "ok",
        "exit_code": ending.exit_code if ending else 0,
        "error": str(ending) if ending else None,
        "name": config.name,
        "device": describe_device(stand.device),
        "hardware": _hardware(stand) | {"load_before": found.load},
        "versions": versions(),
        "model": describe_model(config, stand.run.parts.model),
        "data": describe_data(config, stand.run.splits),
        "batch_size": stand.batch.size,
        "accumulate": config.train.accumulate,
        "samples_per_step": stand.samples_per_step,
        "compile": config.train.compile,
        "settings": asdict(found.settings) | {"warmup_steps": WARMUP_STEPS},
        "products": found.products.as_dict(),
        "rates": found.rates.as_dict(),
        "loader": {
            "samples_per_s": found.loader,
            "loader_bound": found.loader < fastest,
            "workers": config.data.num_workers,
        },
        "order": found.orders,
        "modes": modes,
        "left_out": [asdict(each) for each in found.left_out],
        "warnings": [*_load_warning(found.load), *_warnings(found.rows, found.settings)],
    }


def _hardware(stand: Stand) -> dict[str, Any]:
    device = next(each for each in devices() if each["device"] == str(stand.device))
    return {"name": device["name"], "cpu_count": os.cpu_count(), "torch_threads": torch.get_num_threads()}


def _mode(found: Found, row: Row) -> dict[str, Any]:
    stand, timed, contestant = found.stand, row.timed, row.timed.contestant
    median_s = timed.median_ms and timed.median_ms / 1e3
    samples_per_s = stand.samples_per_step / median_s if median_s else None
    tokens = stand.tokens_per_sample
    figures = _figures(found, row)
    problem = timed.problem
    return {
        "name": contestant.name,
        "mode": contestant.mode,
        "emulated": contestant.emulated,
        "status": problem.status if problem else "ok",
        "error": str(problem) if problem else None,
        "in_force": timed.line or None,
        "step_time_ms": quantiles(timed.step_ms) if timed.rounds else None,
        "rounds": [each.as_dict() for each in timed.rounds],
        "samples_per_s": samples_per_s,
        "tokens_per_s": samples_per_s * tokens if samples_per_s and tokens else None,
        "speed_up": row.speed_up,
        "shares": row.shares.as_dict() if row.shares else None,
        "memory": _memory(row),
        "mfu": _mfu(found, row),
        "compute_format": row.computed,
        "micro_batch": timed.micro_batch,
        "largest_micro_batch": row.largest.as_dict() if row.largest else None,
        "reasons": [reason._asdict() for reason in reasons(figures)] if timed.rounds else [],
        "explanation": explanation(figures) if timed.rounds and contestant.mode != BASELINE else None,
        "notices": list(timed.notices),
    }


def _memory(row: Row) -> dict[str, Any]:
    """Return the peak and how it is known; on a CPU a process's peak cannot be reset, so it is added up."""
    held = row.timed.held
    peak, how = row.timed.peak_bytes, "measured: the most that tensors held in the first round"
    if peak is None and held and row.activations is not None:
        peak, how = held["total"] + row.activations, "held between steps, measured, and activations, planned"
    known = peak is not None and not row.timed.contestant.emulated
    return {
        "peak_bytes": peak if known else None,
        "how": how if known else None,
        "held": held,
        "activations": row.activations,
    }


def _mfu(found: Found, row: Row) -> float | None:
    """Return the step's products a second, by the measured rate of the one format that they run in; None if several."""
    flops, large, median_ms = found.products.flops, found.rates.large, row.timed.median_ms
    if not (median_ms and flops and row.computed in large):
        return None
    share = flops / (median_ms / 1e3) / large[row.computed].flops_per_s
    return share if share <= _MOST_MFU else None


def _achieved(row: Row, products: Products) -> float | None:
    """Return the operations a second of a step's products, while they run."""
    share = row.shares.products if row.shares else None
    if not (products.flops and share and row.timed.median_ms):
        return None
    return products.flops / (share * row.timed.median_ms / 1e3)


def _figures(found: Found, row: Row) -> Figures:
    contestant, fmt = row.timed.contestant, row.computed
    products, large, own = found.products, found.rates.large, found.rates.own
    return Figures(
        mode=contestant.mode,
        computed=fmt,
        emulated=contestant.emulated,
        level=contestant.level,
        level_reason=lacking(contestant, found.stand.device),
        speed_up=row.speed_up,
        shares=row.shares.as_dict() if row.shares else None,
        rate=large[fmt].flops_per_s if fmt in large else None,
        rate_fp32=large[BASELINE].flops_per_s if BASELINE in large else None,
        achieved=_achieved(row, products),
        achieved_fp32=_achieved(found.rows[0], products),
        own_rate=own.get(fmt or ""),
        own_rate_fp32=own.get(BASELINE),
        product=products.heaviest.line() if products.heaviest else None,
        tf32_speed_up=found.tf32_speed_up,
    )


def _ending(found: Sequence[Timed]) -> MptrainError | None:
    """Return what the whole bench ends with where no mode could be timed."""
    problems = [timed.problem for timed in found if timed.problem]
    if len(problems) < len(found):
        return None
    first = next((p for p in problems if isinstance(p, OutOfMemoryError)), problems[0])
    kind = type(first) if isinstance(first, OutOfMemoryError | ConfigError) else CapabilityError
    return kind(f"no mode could be timed; the first reason: {first}")


def _load_warning(load: float | None) -> list[str]:
    cores = os.cpu_count() or 1
    if load is None or load < _BUSY * cores:
        return []
    return [f"other programs were using this machine (load {load:.1f} on {cores} cores): repeat this when it is quiet"]


def _warnings(rows: Sequence[Row], settings: Settings) -> list[str]:
    found = []
    if settings.repeats < 3:
        found.append(f"{settings.repeats} round(s): too few to tell a difference from noise; use --repeats 5")
    for row in rows:
        name, rounds = row.timed.contestant.name, row.timed.rounds
        if rounds and len(rounds) < settings.repeats:
            found.append(f"{name}: a step outlasts its time, {len(rounds)} round(s) were taken; raise --seconds")
        steps, skipped = sum(len(r.step_ms) for r in rounds), sum(r.skipped for r in rounds)
        if skipped:
            found.append(f"{name}: {skipped} of {steps} timed steps were skipped (gradients not finite)")
        if row.speed_up and len(row.speed_up["rounds"]) > 1:
            noise = (row.speed_up["max"] - row.speed_up["min"]) / 2 / row.speed_up["median"]
            if noise > _NOISY:
                found.append(f"{name}: rounds differ by ±{100 * noise:.0f}%, which hides differences below that")
    return found
