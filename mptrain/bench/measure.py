"""`mptrain bench` from a config to its result: what is measured, in which order.

Owns: that order, and the result's fields. Must not: print (progress goes to `say`), or know how anything is measured.

One mode at a time is built, measured and freed, so that none lacks the memory that another holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mptrain.bench.loader import loader_rate
from mptrain.bench.memory import Largest, largest_micro_batch, planned_activations
from mptrain.bench.modes import BASELINE, Contestant, LeftOut, choose, lacking
from mptrain.bench.products import Products, count_products
from mptrain.bench.rates import Rate, matrix_rate, product_rate
from mptrain.bench.reasons import Figures, explanation, reasons
from mptrain.bench.shares import Shares, measure_shares
from mptrain.bench.stand import Stand
from mptrain.bench.timing import WARMUP_STEPS, Settings, Timed, quantiles, run_rounds, speed_up
from mptrain.config.schema import RunConfig
from mptrain.errors import CapabilityError, ConfigError, MptrainError, OutOfMemoryError
from mptrain.precision.modes import get_mode
from mptrain.precision.plan import layers_with_products
from mptrain.trainer.build import describe_device, resolve_device
from mptrain.trainer.environment_report import devices, versions
from mptrain.trainer.materials import describe_data, describe_model

_BUSY = 0.5
"""A load of more than this per core before the bench is warned of."""
_MOST_MFU = 1.1
"""A step that is faster than large matrices runs on other kernels than these: their rate is no measure of it."""
_NOISY = 0.1
"""A spread of more than this among rounds is warned of."""


@dataclass
class _Row:
    """Everything found of one mode."""

    timed: Timed
    speed_up: dict[str, Any] | None = None
    shares: Shares | None = None
    activations: int | None = None
    largest: Largest | None = None
    computed: str | None = None
    """The one format of all its products; None: several, or operands of their own."""


def bench(
    config: RunConfig,
    precisions: str | None,
    settings: Settings,
    *,
    max_batch: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measure `config` in each of the `precisions` and return the result, JSON-able.

    Raises ConfigError for names that are none, and whatever keeps the config from being built at all.
    """
    load = _load()
    contestants, left_out = choose(config, resolve_device(config.device), precisions)
    say(f"building {config.name}")
    stand = Stand(config)
    products = _count(stand, contestants)
    say("timing the data loader")
    loader = loader_rate(stand.run)
    found, orders = run_rounds(stand, contestants, settings, say)
    rows = [_Row(timed, speed_up(timed, found)) for timed in found]
    for row in rows:
        if row.timed.rounds:
            say(f"looking into {row.timed.contestant.name}")
            _look_into(stand, row, settings, max_batch=max_batch)
    rates = _rates(stand, rows, products, say)
    return _result(stand, rows, products, rates, loader, orders, settings, left_out, load)


def _count(stand: Stand, contestants: Sequence[Contestant]) -> Products:
    """Count in the first mode that can: how many products a step has is the same in all of them."""
    found: list[Products] = []
    for contestant in contestants:
        if not contestant.emulated and get_mode(contestant.mode).gemm is None:
            stand.attempt(lambda contestant=contestant: found.append(count_products(stand, contestant)))  # type: ignore[misc]
        if found:
            return found[0]
    return Products(None, (), None)


def _look_into(stand: Stand, row: _Row, settings: Settings, *, max_batch: bool) -> None:
    """Find shares, memory and formats of a mode that was timed; what fails here leaves its figures unknown."""
    timed, contestant = row.timed, row.timed.contestant

    def shares() -> None:
        row.shares = measure_shares(stand, contestant, (timed.median_ms or 0.0) / 1e3)

    def plan() -> None:
        with stand.built(contestant, compiled=False) as built:
            row.computed = None if contestant.emulated else _format_of_products(built.run)
            at_a_time = min(timed.micro_batch or stand.batch.size, stand.batch.size)
            row.activations = None if contestant.emulated else planned_activations(built, at_a_time)

    def largest() -> None:
        held = (timed.held or {}).get("total", 0)
        row.largest = largest_micro_batch(stand, contestant, held)

    is_slow = timed.step_ms[-1] / 1e3 > settings.round_s
    problems = [None if is_slow else stand.attempt(shares), stand.attempt(plan)]
    problems += [stand.attempt(largest)] if max_batch else []
    timed.notices += tuple(f"not all was measured: {problem}" for problem in problems if problem)


def _format_of_products(run: Any) -> str | None:
    plan = run.parts.policy.plan
    if plan.layers:
        return None
    products = set(layers_with_products(run.parts.model))
    formats = {module.computed for module in plan.modules if module.name in products} or {plan.mode.computed}
    return formats.pop() if len(formats) == 1 else None


@dataclass
class _Rates:
    """Operations a second by format: of large matrices, and of the model's heaviest product."""

    large: dict[str, Rate]
    own: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        return {
            "flops_per_s": {fmt: rate.flops_per_s for fmt, rate in self.large.items()},
            "matrix_size": {fmt: rate.size for fmt, rate in self.large.items()},
            "heaviest_product_flops_per_s": self.own,
        }


def _rates(stand: Stand, rows: Sequence[_Row], products: Products, say: Callable[[str], None]) -> _Rates:
    rates = _Rates({}, {})
    formats = dict.fromkeys((BASELINE, *(row.computed for row in rows if row.computed)))
    for fmt in [*formats, *formats]:  # twice, the faster counts: a slow moment must not hit one format only
        say(f"measuring matrix products in {fmt}")
        large = matrix_rate(fmt, stand.device)
        own = product_rate(products.heaviest, fmt, stand.device) if products.heaviest else None
        if large is not None:
            rates.large[fmt] = max(large, rates.large.get(fmt, large))
        if own is not None:
            rates.own[fmt] = max(own, rates.own.get(fmt, own))
    stand.tidy_up()
    return rates


def _result(
    stand: Stand,
    rows: Sequence[_Row],
    products: Products,
    rates: _Rates,
    loader: float,
    orders: list[list[str]],
    settings: Settings,
    left_out: list[LeftOut],
    load: float | None,
) -> dict[str, Any]:
    config, run = stand.config, stand.run
    tf32 = next((row.speed_up["median"] for row in rows if row.speed_up and row.timed.contestant.mode == "tf32"), None)
    modes = [_mode(stand, row, rows[0], products, rates, tf32) for row in rows]
    fastest = max((mode["samples_per_s"] or 0.0 for mode in modes if not mode["emulated"]), default=0.0)
    ending = _ending([row.timed for row in rows])
    device = next(found for found in devices() if found["device"] == str(stand.device))
    return {
        "schema": 1,
        "status": ending.status if ending else "ok",
        "exit_code": ending.exit_code if ending else 0,
        "error": str(ending) if ending else None,
        "name": config.name,
        "device": describe_device(stand.device),
        "hardware": {
            "name": device["name"],
            "cpu_count": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "load_before": load,
        },
        "versions": versions(),
        "model": describe_model(config, run.parts.model),
        "data": describe_data(config, run.splits),
        "batch_size": stand.batch.size,
        "accumulate": config.train.accumulate,
        "samples_per_step": stand.samples_per_step,
        "compile": config.train.compile,
        "settings": {
            "repeats": settings.repeats,
            "seconds": settings.seconds,
            "steps": settings.steps,
            "warmup_steps": WARMUP_STEPS,
        },
        "products": products.as_dict(),
        "rates": rates.as_dict(),
        "loader": {"samples_per_s": loader, "loader_bound": loader < fastest, "workers": config.data.num_workers},
        "order": orders,
        "modes": modes,
        "left_out": [{"mode": each.mode, "reason": each.reason} for each in left_out],
        "warnings": [*_load_warning(load), *_warnings(rows, settings)],
    }


def _mode(
    stand: Stand, row: _Row, baseline: _Row, products: Products, rates: _Rates, tf32: float | None
) -> dict[str, Any]:
    timed, contestant = row.timed, row.timed.contestant
    median_s = timed.median_ms and timed.median_ms / 1e3
    samples_per_s = stand.samples_per_step / median_s if median_s else None
    tokens = stand.tokens_per_sample
    figures = _figures(stand, row, baseline, products, rates, tf32)
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
        "mfu": _mfu(row, products, rates, median_s),
        "compute_format": row.computed,
        "micro_batch": timed.micro_batch,
        "largest_micro_batch": row.largest.as_dict() if row.largest else None,
        "reasons": [reason._asdict() for reason in reasons(figures)] if timed.rounds else [],
        "explanation": explanation(figures) if timed.rounds and contestant.mode != BASELINE else None,
        "notices": list(timed.notices),
    }


def _memory(row: _Row) -> dict[str, Any]:
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


def _mfu(row: _Row, products: Products, rates: _Rates, median_s: float | None) -> float | None:
    """Return the step's products a second, by the measured rate of the one format that they run in; None if several."""
    if not (median_s and products.flops and row.computed in rates.large):
        return None
    share = products.flops / median_s / rates.large[row.computed].flops_per_s
    return share if share <= _MOST_MFU else None


def _achieved(row: _Row, products: Products) -> float | None:
    """Return the operations a second of a step's products, while they run."""
    share = row.shares.products if row.shares else None
    if not (products.flops and share and row.timed.median_ms):
        return None
    return products.flops / (share * row.timed.median_ms / 1e3)


def _figures(stand: Stand, row: _Row, baseline: _Row, products: Products, rates: _Rates, tf32: float | None) -> Figures:
    contestant, large = row.timed.contestant, rates.large
    fmt = row.computed
    return Figures(
        mode=contestant.mode,
        computed=fmt,
        emulated=contestant.emulated,
        level=contestant.level,
        level_reason=lacking(contestant, stand.device),
        speed_up=row.speed_up,
        shares=row.shares.as_dict() if row.shares else None,
        rate=large[fmt].flops_per_s if fmt in large else None,
        rate_fp32=large[BASELINE].flops_per_s if BASELINE in large else None,
        achieved=_achieved(row, products),
        achieved_fp32=_achieved(baseline, products),
        own_rate=rates.own.get(fmt or ""),
        own_rate_fp32=rates.own.get(BASELINE),
        product=products.heaviest.line() if products.heaviest else None,
        tf32_speed_up=tf32,
    )


def _ending(found: Sequence[Timed]) -> MptrainError | None:
    """Return what the whole bench ends with where no mode could be timed."""
    problems = [timed.problem for timed in found if timed.problem]
    if len(problems) < len(found):
        return None
    first = next((p for p in problems if isinstance(p, OutOfMemoryError)), problems[0])
    kind = type(first) if isinstance(first, OutOfMemoryError | ConfigError) else CapabilityError
    return kind(f"no mode could be timed; the first reason: {first}")


def _load() -> float | None:
    """Return the system's load average over the last minute; None where it has none."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def _load_warning(load: float | None) -> list[str]:
    cores = os.cpu_count() or 1
    if load is None or load < _BUSY * cores:
        return []
    return [f"other programs were using this machine (load {load:.1f} on {cores} cores): repeat this when it is quiet"]


def _warnings(rows: Sequence[_Row], settings: Settings) -> list[str]:
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
