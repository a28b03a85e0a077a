"""`mptrain bench` from a config to its result: what is measured, in which order.

Owns: that order. Must not: print (progress goes to `say`), or know how anything is measured or what follows from it.

One mode at a time is built, measured and freed, so that none lacks the memory that another holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from mptrain.bench.loader import loader_rate
from mptrain.bench.memory import largest_micro_batch, planned_activations
from mptrain.bench.modes import BASELINE, Contestant, choose
from mptrain.bench.products import Products, count_products
from mptrain.bench.rates import matrix_rate, product_rate
from mptrain.bench.result import Found, Rates, Row, result_of
from mptrain.bench.shares import measure_shares
from mptrain.bench.stand import Stand
from mptrain.bench.timing import Settings, run_rounds, speed_up
from mptrain.config.schema import RunConfig
from mptrain.precision.modes import get_mode
from mptrain.precision.plan import layers_with_products
from mptrain.trainer.build import Run, resolve_device


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
    rows = [Row(timed, speed_up(timed, found)) for timed in found]
    for row in rows:
        if row.timed.rounds:
            say(f"looking into {row.timed.contestant.name}")
            _look_into(stand, row, settings, max_batch=max_batch)
    rates = _rates(stand, rows, products, say)
    return result_of(Found(stand, settings, rows, products, rates, loader, orders, left_out, load))


def _count(stand: Stand, contestants: Sequence[Contestant]) -> Products:
    """Count in the first mode that can: how many products a step has is the same in all of them."""
    found: list[Products] = []
    for contestant in contestants:
        if not contestant.emulated and get_mode(contestant.mode).gemm is None:
            stand.attempt(lambda contestant=contestant: found.append(count_products(stand, contestant)))  # type: ignore[misc]
        if found:
            return found[0]
    return Products(None, (), None)


def _look_into(stand: Stand, row: Row, settings: Settings, *, max_batch: bool) -> None:
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


def _format_of_products(run: Run) -> str | None:
    """Return the one format of all layers with products; None where there are several, or operands of their own."""
    plan = run.parts.policy.plan
    if plan.layers:
        return None
    products = set(layers_with_products(run.parts.model))
    formats = {module.computed for module in plan.modules if module.name in products} or {plan.mode.computed}
    return formats.pop() if len(formats) == 1 else None


def _rates(stand: Stand, rows: Sequence[Row], products: Products, say: Callable[[str], None]) -> Rates:
    """Measure the formats that were timed."""
    rates = Rates({}, {})
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


def _load() -> float | None:
    """Return the system's load average over the last minute; None where it has none."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None
