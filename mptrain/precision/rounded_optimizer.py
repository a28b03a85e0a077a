"""An optimizer step for weights stored in FP16 or BF16, bucket by bucket, in FP32 that lives no longer than a bucket.

    for each bucket:  low -> FP32 copies -> gradients unscaled and clipped -> torch's own optimizer -> rounded back

Owns: the order of these, and which parameters torch's optimizer sees at a time. Must not: read the device, or round by
itself (`weight_rounding.py`). A skipped step leaves every bit: torch's kernels change nothing, and what was exact in
the low format is exact when rounded again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mptrain.interfaces import SkippingOptimizer
from mptrain.precision.flat_layout import FlatLayout
from mptrain.precision.loss_scaler import LossScaler
from mptrain.precision.weight_rounding import LostUpdates, round_compensated, round_low

GradientOf = Callable[[nn.Parameter], Tensor | None]
State = Mapping[Any, dict[str, Any]]
"""An optimizer's state by parameter."""


class Bucket(Protocol):
    """Parameters that are stepped together."""

    optimized: list[nn.Parameter]
    """What the optimizer works on."""

    def stage(self, state: State) -> None:
        """Give `optimized` FP32 data and gradients."""

    def publish(self, state: State) -> None:
        """Round the results into what is stored, and let go of the FP32 copies."""


class RoundedOptimizer:
    """Steps `inner` over one bucket at a time; parameters in no bucket are stepped as they are, with the first."""

    def __init__(self, inner: SkippingOptimizer, buckets: Sequence[Bucket], lost: LostUpdates) -> None:
        self._inner, self._buckets, self._lost = inner, buckets, lost
        self.param_groups = inner.param_groups
        bucket_of = {id(p): index for index, bucket in enumerate(buckets) for p in bucket.optimized}
        self._shares = [
            [[p for p in group["params"] if bucket_of.get(id(p), 0) == index] for group in inner.param_groups]
            for index in range(len(buckets))
        ]
        for param in (p for bucket in buckets for p in bucket.optimized if not p.dim()):
            _widen(inner.state.get(param, {}))

    @property
    def state(self) -> State:
        """Return the optimizer's state by parameter; of `-pure` weights it is low between two steps."""
        return self._inner.state

    @torch.no_grad()
    def step(self) -> None:
        """Apply one step, or change nothing where the loss scaler says so."""
        if self._lost.wanted:
            self._lost.begin()
        for bucket, share in zip(self._buckets, self._shares, strict=True):
            with self._restricted_to(share):
                bucket.stage(self._inner.state)
                self._inner.step()
                bucket.publish(self._inner.state)
        self._lost.wanted = False

    def state_dict(self) -> dict[str, Any]:
        """Return the inner optimizer's state."""
        return self._inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state saved in any precision; moments take the format they are stored in."""
        self._inner.load_state_dict(state_dict)
        self.param_groups = self._inner.param_groups
        ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for saved_id, param in zip(ids, params, strict=True):
            entries = self._inner.state.get(param, {})
            saved = state_dict["state"].get(saved_id, {})
            for key in entries.keys() & saved.keys():
                value = saved[key]
                # torch casts all but `step` to the parameter's dtype, which would round counters and products, too.
                if isinstance(value, Tensor) and not _is_moment(value, param) and entries[key].dtype == param.dtype:
                    entries[key] = value.to(entries[key].device, torch.float32)

    @contextmanager
    def _restricted_to(self, share: list[list[nn.Parameter]]) -> Iterator[None]:
        whole = [group["params"] for group in self._inner.param_groups]
        try:
            for group, params in zip(self._inner.param_groups, share, strict=True):
                group["params"] = params
            yield
        finally:
            for group, params in zip(self._inner.param_groups, whole, strict=True):
                group["params"] = params


class MasterBucket:
    """Stored weights with FP32 masters, which the optimizer works on."""

    def __init__(
        self, params: Sequence[nn.Parameter], masters: Sequence[nn.Parameter], scaler: LossScaler, gradient: GradientOf
    ) -> None:
        self.optimized = list(masters)
        self._params = list(params)
        self._layout = FlatLayout(self._params)
        self._scaler, self._gradient = scaler, gradient

    def stage(self, state: State) -> None:
        """See Bucket."""
        _stage_gradients(self._params, self.optimized, self._layout, self._scaler, self._gradient)

    def publish(self, state: State) -> None:
        """See Bucket."""
        for master in self.optimized:
            master.grad = None
        torch._foreach_copy_([*self._params], [*self.optimized])


class PureBucket:
    """Stored weights and optimizer state, both low; the optimizer works on stand-ins that are FP32 only in between."""

    def __init__(
        self,
        params: Sequence[nn.Parameter],
        stand_ins: Sequence[nn.Parameter],
        scaler: LossScaler,
        gradient: GradientOf,
        *,
        generator: torch.Generator | None,
        compensation: Sequence[Tensor],
        lost: LostUpdates,
    ) -> None:
        self.optimized = list(stand_ins)
        self._params = list(params)
        self._layout = FlatLayout(self._params)
        self._scaler, self._gradient = scaler, gradient
        self._generator, self._compensation, self._lost = generator, list(compensation), lost
        self._dtype = self._params[0].dtype
        self._weights = torch.empty(0)
        self._moments: dict[str, _Moments] = {}

    def stage(self, state: State) -> None:
        """See Bucket."""
        self._weights = self._layout.gather(self._params)
        for stand_in, wide in zip(self.optimized, self._layout.views(self._weights), strict=True):
            stand_in.data = wide
        _stage_gradients(self._params, self.optimized, self._layout, self._scaler, self._gradient)
        self._moments = {key: _Moments(self._layout) for key in self._moment_keys(state)}
        for key, moments in self._moments.items():
            moments.stage(key, self._entries(state))

    def publish(self, state: State) -> None:
        """See Bucket."""
        self._round_weights()
        for key in self._moment_keys(state):
            moments = self._moments.get(key) or _Moments(self._layout)
            moments.publish(key, self._entries(state), self._dtype, self._generator)
        for stand_in, param in zip(self.optimized, self._params, strict=True):
            stand_in.grad = None
            stand_in.data = param.data
        self._weights, self._moments = torch.empty(0), {}

    def _round_weights(self) -> None:
        new, carried = self._weights, torch.empty(0)
        old = self._layout.gather(self._params) if self._compensation or self._lost.wanted else torch.empty(0)
        if self._compensation:
            carried = self._layout.gather(self._compensation)
            rounded, left = round_compensated(old, new, carried, self._scaler.outcome.skipped, self._dtype)
            torch._foreach_copy_(self._compensation, self._layout.views(left))
        else:
            rounded, left = round_low(new, self._dtype, self._generator), carried
        if self._lost.wanted:
            kept = rounded == old
            self._lost.count(old, new, kept.logical_and_(left == carried) if self._compensation else kept)
        torch._foreach_copy_([*self._params], self._layout.views(rounded))

    def _moment_keys(self, state: State) -> list[str]:
        """Return the names of the optimizer's moments, in a fixed order."""
        pairs = zip(self.optimized, self._entries(state), strict=True)
        return list(dict.fromkeys(key for p, entries in pairs for key, v in entries.items() if _is_moment(v, p)))

    def _entries(self, state: State) -> list[dict[str, Any]]:
        """Return what the optimizer keeps for each parameter; nothing for a 0-d one, whose numbers stay FP32."""
        return [state.get(p, {}) if p.dim() else {} for p in self.optimized]


class _Moments:
    """One kind of moment (`exp_avg`, ...) of a bucket's parameters, in FP32 while the optimizer works."""

    def __init__(self, layout: FlatLayout) -> None:
        self._flat = layout.zeros()
        self._views = layout.views(self._flat)
        self._layout = layout
        self._stored: list[Tensor | None] = [None] * len(self._views)

    def stage(self, key: str, entries: Sequence[dict[str, Any]]) -> None:
        """Put FP32 copies in the place of the stored tensors; parameters that were never stepped have none."""
        self._stored = [entry.get(key) for entry in entries]
        places = [i for i, stored in enumerate(self._stored) if stored is not None]
        torch._foreach_copy_([self._views[i] for i in places], [entries[i][key] for i in places])
        for i in places:
            entries[i][key] = self._views[i]

    def publish(
        self, key: str, entries: Sequence[dict[str, Any]], dtype: torch.dtype, generator: torch.Generator | None
    ) -> None:
        """Round into the stored tensors, made now for those that the optimizer has just begun, and put these back."""
        places = [i for i, entry in enumerate(entries) if key in entry]
        begun = [i for i in places if entries[i][key] is not self._views[i]]
        if begun:
            torch._foreach_copy_([self._views[i] for i in begun], [entries[i][key] for i in begun])
        rounded = self._layout.views(round_low(self._flat, dtype, generator))
        for i in places:
            stored = self._stored[i]
            entries[i][key] = torch.empty_like(rounded[i]) if stored is None else stored
        torch._foreach_copy_([entries[i][key] for i in places], [rounded[i] for i in places])


def _stage_gradients(
    params: Sequence[nn.Parameter],
    optimized: Sequence[nn.Parameter],
    layout: FlatLayout,
    scaler: LossScaler,
    gradient: GradientOf,
) -> None:
    """Give `optimized` FP32 gradients, unscaled and clipped: those of `params`, or copies where they are low."""
    found = [gradient(param) for param in params]
    low = {i: grad for i, grad in enumerate(found) if grad is not None and grad.dtype == params[i].dtype}
    if low:
        views = layout.views(layout.zeros())
        wide = [views[i] for i in low]
        torch._foreach_copy_(wide, list(low.values()))
        scaler.finish_(wide, [params[i] for i in low])
        for i in low:
            found[i] = views[i]
    for target, grad in zip(optimized, found, strict=True):
        target.grad = grad


def _widen(entries: dict[str, Any]) -> None:
    """Make FP32 what an optimizer began in the format of its 0-d parameter."""
    for key, value in entries.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            entries[key] = value.float()


def _is_moment(value: Any, param: nn.Parameter) -> bool:
    """Whether a state entry is stored low: one number per weight; beside a 0-d weight it may be a count."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0 and value.shape == param.shape
