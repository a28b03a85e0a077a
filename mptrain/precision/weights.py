"""What stands between the model's weights and the optimizer: nothing, FP32 masters, or rounding.

    fp32     the optimizer works on the weights                          (every method does nothing)
    master   low weights and gradients; the optimizer works on FP32 masters, rounded into the weights after each step
    pure     low weights, gradients and optimizer state, FP32 only in between (`rounded_optimizer.py`)

Owns: which tensors are kept for a weight from step to step, and what a checkpoint holds of them. Must not: convert the
model (the policy has stored it low before), or step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mptrain.interfaces import SkippingOptimizer
from mptrain.precision.loss_scaler import LossScaler
from mptrain.precision.rounded_optimizer import MasterBucket, PureBucket, RoundedOptimizer
from mptrain.precision.weight_rounding import LostUpdates

StoreKind = Literal["fp32", "master", "pure"]

_BUCKET_ELEMENTS = 2**24
"""What is held in FP32 at a time: 64 MiB each of weights, gradients and every moment."""
_NOISE = 0x6E6F697365
"""Sets the seed of stochastic rounding apart from the run's own, from which weights and dropout are drawn."""


class WeightStore:
    """Weights stored as the optimizer works on them."""

    lost: Tensor | None = None
    """Of the last measured step: elements whose update left no trace (0-d, on the device)."""
    updated: Tensor | None = None
    """Of the last measured step: elements with an update (0-d, on the device)."""

    @property
    def measure_next(self) -> bool:
        """Whether the next step's updates are counted into `lost` and `updated`; never where none can be lost."""
        return False

    @measure_next.setter
    def measure_next(self, wanted: bool) -> None: ...

    def optimized(self, param: nn.Parameter) -> nn.Parameter:
        """Return what the optimizer works on in the place of `param`."""
        return param

    def wrap(self, optimizer: SkippingOptimizer, scaler: LossScaler) -> SkippingOptimizer:
        """Return the optimizer to step, built over `optimized` of every parameter and skipping as `scaler` says."""
        scaler.attach(optimizer)
        return optimizer

    def best(self, param: nn.Parameter) -> Tensor:
        """Return the most precise copy of `param` that is kept."""
        return param.detach()

    def gradient(self, param: nn.Parameter) -> Tensor | None:
        """Return the gradient of the window so far: what the loss scaler checks, unscales and clips."""
        return param.grad

    def sum_gradients(self) -> None:
        """Expect several backwards in a step from now on: low gradients are summed in FP32 where they can be."""

    def collect_gradients(self, *, first: bool) -> None:
        """Take up the gradients of a backward, the step's `first` or a later one."""

    def model_state(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the model's state with the most precise copy of every weight, so that any precision can go on."""
        return dict(model.state_dict())

    def load_model_state(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Take over a model's state saved in any precision."""
        model.load_state_dict(state)

    def publish(self) -> None:
        """Round into the model's weights what was written to `best`."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the model's and the optimizer's state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state; what it lacks, saved in another precision, stays as `load_model_state` left it."""

    def bytes(self) -> dict[str, int]:
        """Return the bytes held beside the model's weights and their `.grad`."""
        return {"gradients": 0, "master_weights": 0, "compensation": 0}


class _LowWeights(WeightStore):
    """Weights stored in FP16 or BF16, each with what the optimizer works on in its place."""

    def __init__(self, params: Mapping[str, nn.Parameter], optimized: Iterable[nn.Parameter]) -> None:
        self._params = list(params.values())
        self._optimized = dict(zip(self._params, optimized, strict=True))

    def optimized(self, param: nn.Parameter) -> nn.Parameter:
        """See WeightStore."""
        return self._optimized.get(param, param)

    def _buckets(self) -> Iterator[slice]:
        """Yield runs of parameters of one dtype, each of at most `_BUCKET_ELEMENTS` unless it is a single one."""
        start, elements = 0, 0
        for index, param in enumerate(self._params):
            fits = elements + param.numel() <= _BUCKET_ELEMENTS and param.dtype == self._params[start].dtype
            if index > start and not fits:
                yield slice(start, index)
                start, elements = index, 0
            elements += param.numel()
        yield slice(start, len(self._params))


class MasterWeights(_LowWeights):
    """FP32 masters; the gradients of several backwards are summed in FP32, as Megatron-LM's `main_grad` is."""

    def __init__(self, params: Mapping[str, nn.Parameter], *, accumulate: int) -> None:
        super().__init__(params, [nn.Parameter(param.detach().float()) for param in params.values()])
        self._sums: dict[nn.Parameter, Tensor] = {}
        self._summed: set[nn.Parameter] = set()
        if accumulate > 1:
            self.sum_gradients()

    def wrap(self, optimizer: SkippingOptimizer, scaler: LossScaler) -> SkippingOptimizer:
        """See WeightStore."""
        scaler.attach(optimizer)
        scaler.read_gradients_from(self.gradient)
        masters = list(self._optimized.values())
        buckets = [MasterBucket(self._params[b], masters[b], scaler, self.gradient) for b in self._buckets()]
        return RoundedOptimizer(optimizer, buckets, LostUpdates(self._params[0].device))

    def best(self, param: nn.Parameter) -> Tensor:
        """See WeightStore."""
        return self.optimized(param).detach()

    def gradient(self, param: nn.Parameter) -> Tensor | None:
        """See WeightStore; an FP32 sum where micro-batches are summed."""
        if param not in self._sums:
            return param.grad
        return self._sums[param] if param in self._summed else None

    def sum_gradients(self) -> None:
        """See WeightStore; 4 bytes a weight."""
        if not self._sums:
            self._sums = {p: torch.zeros_like(p, dtype=torch.float32) for p in self._params}

    @torch.no_grad()
    def collect_gradients(self, *, first: bool) -> None:
        """See WeightStore; the low gradients are let go."""
        if not self._sums:
            return
        if first:
            self._summed.clear()
        given = [(param, param.grad) for param in self._params if param.grad is not None]
        begun = {self._sums[p]: grad for p, grad in given if p not in self._summed}
        later = {self._sums[p]: grad for p, grad in given if p in self._summed}
        if begun:
            torch._foreach_copy_(list(begun), list(begun.values()))
        if later:
            torch._foreach_add_(list(later), list(later.values()))
        for param, _ in given:
            param.grad = None
            self._summed.add(param)

    def model_state(self, model: nn.Module) -> dict[str, Tensor]:
        """See WeightStore."""
        state = super().model_state(model)
        return state | {name: self.best(p) for name, p in self._named(model) if p in self._optimized}

    def load_model_state(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """See WeightStore."""
        super().load_model_state(model, state)
        for name, param in self._named(model):
            if param in self._optimized:
                self.best(param).copy_(state[name])
        self.publish()

    @torch.no_grad()
    def publish(self) -> None:
        """See WeightStore."""
        torch._foreach_copy_([*self._params], [*self._optimized.values()])

    def bytes(self) -> dict[str, int]:
        """See WeightStore."""
        masters = _bytes(self._optimized.values())
        return super().bytes() | {"gradients": _bytes(self._sums.values()), "master_weights": masters}

    @staticmethod
    def _named(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
        return model.named_parameters(remove_duplicate=False)  # a tied weight goes by all its names in a state


class PureWeights(_LowWeights):
    """Low weights and optimizer state; Kahan's compensation or the noise of stochastic rounding beside them."""

    def __init__(self, params: Mapping[str, nn.Parameter], *, rounding: str, seed: int) -> None:
        # The stand-ins share the weights' storage between steps, and so the optimizer's state begins low, too.
        super().__init__(params, [nn.Parameter(param.detach()) for param in params.values()])
        device = self._params[0].device
        self._generator = torch.Generator(device).manual_seed(seed ^ _NOISE) if rounding == "stochastic" else None
        self._compensation = {n: torch.zeros_like(p) for n, p in params.items()} if rounding == "kahan" else {}
        self._lost = LostUpdates(device)
        self.lost, self.updated = self._lost.lost, self._lost.updated

    @property
    def measure_next(self) -> bool:
        """See WeightStore; unset by the step."""
        return self._lost.wanted

    @measure_next.setter
    def measure_next(self, wanted: bool) -> None:
        self._lost.wanted = wanted

    def wrap(self, optimizer: SkippingOptimizer, scaler: LossScaler) -> SkippingOptimizer:
        """See WeightStore."""
        scaler.attach(optimizer)
        stand_ins, compensation = list(self._optimized.values()), list(self._compensation.values())
        buckets = [
            PureBucket(
                self._params[b],
                stand_ins[b],
                scaler,
                self.gradient,
                generator=self._generator,
                compensation=compensation[b],
                lost=self._lost,
            )
            for b in self._buckets()
        ]
        return RoundedOptimizer(optimizer, buckets, self._lost)

    @torch.no_grad()
    def load_model_state(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """See WeightStore; Kahan's compensation begins with what rounding takes from weights saved wider."""
        super().load_model_state(model, state)
        for name, left in self._compensation.items():
            left.copy_(state[name].to(left.device).double() - model.get_parameter(name).double())

    def state_dict(self) -> dict[str, Any]:
        """See WeightStore."""
        state: dict[str, Any] = {}
        if self._compensation:
            state["compensation"] = dict(self._compensation)
        if self._generator:
            state["generator"] = {"device": self._generator.device.type, "state": self._generator.get_state()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See WeightStore."""
        for name, saved in _kept(self._compensation, state).items():
            self._compensation[name].copy_(saved)
        noise = state.get("generator")
        if self._generator and noise and noise["device"] == self._generator.device.type:
            self._generator.set_state(noise["state"].cpu())

    def bytes(self) -> dict[str, int]:
        """See WeightStore."""
        return super().bytes() | {"compensation": _bytes(self._compensation.values())}


def make_weight_store(
    kind: StoreKind, rounding: str, params: Mapping[str, nn.Parameter], *, accumulate: int, seed: int
) -> WeightStore:
    """Return what stands between weights and optimizer; `params` are the trainable ones stored low, by name.

    `rounding` (nearest, stochastic, kahan) and `seed` are of `pure`, `accumulate` (micro-batches a step) of `master`.
    """
    if kind == "fp32" or not params:
        return WeightStore()
    if kind == "master":
        return MasterWeights(params, accumulate=accumulate)
    return PureWeights(params, rounding=rounding, seed=seed)


def in_full(
    store: WeightStore, model: nn.Module, saved: Mapping[str, Tensor], weights: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return the `saved` state of `model` with Kahan's compensation added to the weights where `store` cannot keep it.

    `weights` is the state of the store that it was saved with.
    """
    kept = _kept(store.state_dict().get("compensation", {}), weights)
    owed = {name: left for name, left in weights.get("compensation", {}).items() if name not in kept}
    first: dict[nn.Parameter, str] = {}
    full = dict(saved)
    for name, param in model.named_parameters(remove_duplicate=False):
        left = owed.get(first.setdefault(param, name))  # a tied weight has one compensation and several names
        if left is not None:
            full[name] = saved[name].double() + left.double()
    return full


def _kept(own: Mapping[str, Tensor], state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the saved compensation that goes on as it is: that of weights in the same format."""
    saved: Mapping[str, Tensor] = state.get("compensation", {})
    return {name: left for name, left in saved.items() if name in own and own[name].dtype == left.dtype}


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
