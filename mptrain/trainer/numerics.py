"""Samples the numerics of a run: every so many attempted steps, how its gradients sit in the format they run in.

Owns: the cadence, the sample's way to the host (as the outcome's: one copy that nobody waits for), and the record made
of it. Must not: read the device, or know what a measurement is made of (`mptrain.precision`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import nn

from mptrain.precision.emulation import Fp32Accumulation
from mptrain.precision.formats import get_format
from mptrain.precision.gradient_stats import EXPONENTS, MEASURES, GradientStats, measure, read_stats, total, trimmed
from mptrain.precision.loss_scaler import LossScaler
from mptrain.precision.weights import WeightStore
from mptrain.telemetry.attempt_log import make_attempt_log
from mptrain.telemetry.records import GradientHistogram, Numerics

_PRODUCTS = ("nonzero", "became_zero", "became_subnormal", "overflowed")
_HISTOGRAM = 3 + len(_PRODUCTS)
_HEADER = _HISTOGRAM + EXPONENTS
"""Loss scale, updates lost, updates, the products, and the histogram; before the measures of each parameter."""


class Sample(NamedTuple):
    """One sample on the host."""

    summary: Numerics
    details: Mapping[str, Any]
    """The summary, and what it sums up: by parameter, and the products counted."""

    @property
    def message(self) -> str:
        """Return it as one line for a person."""
        s = self.summary
        return f"largest gradient {s.amax:.3g}, {100 * s.below_normal_share:.3g}% below {s.format}'s smallest normal"


class NoNumerics:
    """Samples nothing."""

    def begin(self, attempt: int) -> None:
        """Start attempted step `attempt` (from 1)."""

    def start_over(self) -> None:
        """Forget what was counted of this attempt's backwards: it is attempted again."""

    def counting(self) -> AbstractContextManager[None]:
        """Return the context for a backward: its products are counted where that is possible and due."""
        return nullcontext()

    def after_unscale(self) -> None:
        """Measure the gradients: they have been unscaled, and not clipped yet."""

    def record(self) -> None:
        """Send the sample on its way; the step is over."""

    def completed(self) -> list[Sample]:
        """Return the samples that have reached the host, without waiting."""
        return []

    def drain(self) -> list[Sample]:
        """Wait for every sample under way."""
        return []


class NumericsSampler(NoNumerics):
    """Samples every `every` attempted steps; `products` is what counts them, where the precision emulates them."""

    def __init__(
        self,
        model: nn.Module,
        scaler: LossScaler,
        weights: WeightStore,
        *,
        every: int,
        gradient_format: str,
        products: Fp32Accumulation | None = None,
    ) -> None:
        self._params = {name: p for name, p in model.named_parameters() if p.requires_grad and p.numel()}
        self._scaler, self._every = scaler, every
        self._format = get_format(gradient_format)
        self._weights, self._products = weights, products
        device = scaler.outcome.values.device
        self._values = torch.zeros(_HEADER + MEASURES * len(self._params), dtype=torch.float64, device=device)
        self._log = make_attempt_log(len(self._values), 1, device, torch.float64)
        self._under_way: deque[tuple[int, list[str]]] = deque()
        self._attempt = 0
        self._due = False

    def begin(self, attempt: int) -> None:
        """See NoNumerics."""
        self._attempt, self._due = attempt, attempt % self._every == 0
        self._weights.measure_next = self._due
        self.start_over()

    def start_over(self) -> None:
        """See NoNumerics."""
        if self._due and self._products is not None:
            self._products.reset_underflow_counts()

    def counting(self) -> AbstractContextManager[None]:
        """See NoNumerics."""
        return _counting(self._products) if self._due and self._products is not None else nullcontext()

    def after_unscale(self) -> None:
        """See NoNumerics."""
        if not self._due:
            return
        scaler = self._scaler
        grads = {name: (scaler.gradient_of(param), scaler.scale_of(param)) for name, param in self._params.items()}
        known = {name: (g, scale) for name, (g, scale) in grads.items() if g is not None}
        names, rows, histogram = measure(known, self._format)
        self._values[0].copy_(scaler.outcome.loss_scale)
        self._values[_HISTOGRAM:_HEADER].copy_(histogram)
        self._values[_HEADER : _HEADER + rows.numel()].copy_(rows.flatten())
        self._under_way.append((self._attempt, names))

    def record(self) -> None:
        """See NoNumerics."""
        if not self._due:
            return
        for slot, count in enumerate((self._weights.lost, self._weights.updated), 1):
            if count is not None:
                self._values[slot].copy_(count)
        if self._products is not None:
            self._values[3:_HISTOGRAM].copy_(self._products.underflow_counts())
        self._log.record(self._values)
        self._due = False

    def completed(self) -> list[Sample]:
        """See NoNumerics."""
        found = []
        while done := self._log.completed():
            found += [self._sample(row) for row in done.rows]
        return found

    def drain(self) -> list[Sample]:
        """See NoNumerics."""
        return [self._sample(row) for done in self._log.drain() for row in done.rows]

    def _sample(self, row: list[float]) -> Sample:
        attempt, names = self._under_way.popleft()
        measures = [row[at : at + MEASURES] for at in range(_HEADER, _HEADER + MEASURES * len(names), MEASURES)]
        stats = read_stats(names, measures, [self._params[name].numel() for name in names])
        scale, lost, updated, *products = row[:_HISTOGRAM]
        everything = total(stats.values())
        summary = Numerics(
            attempted_step=attempt,
            format=self._format.name,
            loss_scale=scale,
            grad_norm=everything.norm,
            amax=everything.amax,
            headroom=everything.headroom(self._format),
            zero_share=everything.zero_share,
            below_normal_share=everything.below_normal_share,
            below_subnormal_share=everything.below_subnormal_share,
            lost_update_share=None if self._weights.lost is None else lost / max(updated, 1),
            underflow_share=None if self._products is None else products[1] / max(products[0], 1),
            histogram=GradientHistogram(*trimmed(row[_HISTOGRAM:_HEADER]), zeros=everything.zeros),
        )
        details = asdict(summary) | {"by_parameter": {name: self._details(one) for name, one in stats.items()}}
        if self._products is not None:
            details["products"] = dict(zip(_PRODUCTS, map(int, products), strict=True))
        return Sample(summary, details)

    def _details(self, stats: GradientStats) -> dict[str, Any]:
        return stats._asdict() | {"headroom": stats.headroom(self._format)}


@contextmanager
def _counting(products: Fp32Accumulation) -> Iterator[None]:
    products.count_underflow = True
    try:
        yield
    finally:
        products.count_underflow = False


def make_sampler(
    every: int,
    model: nn.Module,
    scaler: LossScaler,
    weights: WeightStore,
    *,
    gradient_format: str,
    products: Fp32Accumulation | None = None,
) -> NoNumerics:
    """Return what samples every `every` attempted steps; 0 is never. See NumericsSampler."""
    if every == 0:
        return NoNumerics()
    return NumericsSampler(model, scaler, weights, every=every, gradient_format=gradient_format, products=products)
