"""Builds torch optimizers so that a skipped step is decided on the device.

Owns: which optimizers have a fused form, the decay groups, and the wrapper for those that have none. Must not: know
loss scaling; it only honours `found_inf`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from mptrain.errors import CheckpointError
from mptrain.interfaces import SkippingOptimizer

_MOMENTUM = "momentum_buffer"
_FUSED_ON = {"SGD": {"cpu", "cuda"}, "Adam": {"cpu", "cuda"}, "AdamW": {"cpu", "cuda"}, "Adagrad": {"cpu"}}


def decay_groups(model: nn.Module, weight_decay: float, *, decay_norm_and_bias: bool) -> list[dict[str, Any]]:
    """Split trainable parameters into a decayed group and, unless `decay_norm_and_bias`, one without decay.

    Without decay: parameters with fewer than two dimensions, i.e. biases and the weights of norms.
    """
    params = [p for p in model.parameters() if p.requires_grad]
    if decay_norm_and_bias:
        return [{"params": params, "weight_decay": weight_decay}]
    groups = [
        {"params": [p for p in params if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(
    torch_name: str, groups: list[dict[str, Any]], lr: Tensor, arguments: Mapping[str, Any]
) -> SkippingOptimizer:
    """Build `torch.optim.<torch_name>`, fused where torch has it for the device of `lr`.

    `lr` is a 0-d tensor that the schedule overwrites; every group shares it.
    """
    cls = getattr(torch.optim, torch_name)
    if lr.device.type in _FUSED_ON.get(torch_name, ()):
        optimizer = cls(groups, lr=lr, fused=True, **arguments)
        optimizer.register_load_state_dict_pre_hook(_fitting)
        if torch_name == "SGD" and arguments["momentum"]:
            _zero_momentum(optimizer)
        return cast(SkippingOptimizer, optimizer)
    optimizer = cls(groups, lr=float(lr), **arguments)
    optimizer.register_load_state_dict_pre_hook(_fitting)
    return HostSteppedOptimizer(optimizer, lr)


def restore_optimizer(optimizer: SkippingOptimizer, state: dict[str, Any]) -> None:
    """Load a saved state; settings (rate, decay, betas) stay those the optimizer was built with.

    Raises CheckpointError where the state is of other parameters, or of another optimizer.
    """
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    if [len(g["params"]) for g in optimizer.param_groups] != [len(g["params"]) for g in state["param_groups"]]:
        raise CheckpointError(
            "optimizer: the checkpoint groups its parameters otherwise; keep the model and "
            "optimizer.decay_norm_and_bias as they were, or start a new run"
        )
    optimizer.load_state_dict(state)
    for group, configured in zip(optimizer.param_groups, settings, strict=True):
        group.update(configured)
    _restore_scalars(optimizer, state)


def _fitting(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Return a saved state with every entry laid out in memory as its parameter; refuse a foreign one.

    torch's fused kernels on the CPU look at neither: they would write past the end of an entry that is too small, and
    take one element of an entry that is laid out otherwise (`train.channels_last` changed) for another.

    Raises CheckpointError.
    """
    kept = _entries_of(optimizer)
    params = [param for group in optimizer.param_groups for param in group["params"]]
    ids = [i for group in state["param_groups"] for i in group["params"]]
    fitted = {}
    for i, param in zip(ids, params, strict=True):
        saved = state["state"].get(i, {})
        if saved or kept.keys() == {_MOMENTUM}:  # else torch makes them at the parameter's first step
            fitted[i] = _fitting_entries(saved, param, kept)
    return {**state, "state": fitted}


def _fitting_entries(saved: Mapping[str, Tensor], param: nn.Parameter, kept: Mapping[str, bool]) -> dict[str, Tensor]:
    entries = {key: value.detach() for key, value in saved.items() if key in kept or key != _MOMENTUM}
    if _MOMENTUM in kept and _MOMENTUM not in saved:  # the saved run had none: it begins at zero, as in a new run
        entries[_MOMENTUM] = torch.zeros_like(param)
    if entries.keys() != kept.keys():
        raise CheckpointError(
            f"optimizer: the checkpoint keeps {_listed(entries)} of a parameter, this optimizer {_listed(kept)}"
        )
    for key, is_scalar in kept.items():
        value, shape = entries[key], () if is_scalar else tuple(param.shape)
        if tuple(value.shape) != shape or not value.is_floating_point():
            found = f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
            raise CheckpointError(f"optimizer: {key} of a parameter is {found} instead of floats of shape {shape}")
        if value.stride() != (() if is_scalar else param.stride()):
            entries[key] = torch.empty_like(param, dtype=value.dtype, device=value.device).copy_(value)
    return entries


def _entries_of(optimizer: torch.optim.Optimizer) -> dict[str, bool]:
    """Return what an optimizer keeps of a parameter, as its step on a small one shows -> whether it is a scalar."""
    group = optimizer.param_groups[0]
    probe = nn.Parameter(torch.zeros(2, 2, device=group["params"][0].device))
    probe.grad = torch.zeros_like(probe)
    kind: Any = type(optimizer)
    made = kind([{**group, "params": [probe]}])
    made.step()
    return {key: not value.dim() for key, value in made.state[probe].items()}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"


def _restore_scalars(optimizer: SkippingOptimizer, state: dict[str, Any]) -> None:
    """Give counters and products the format they were saved in: torch casts all but `step` to the parameter's."""
    ids = [i for group in state["param_groups"] for i in group["params"]]
    saved = {p: state["state"].get(i, {}) for i, p in zip(ids, _params(optimizer), strict=True)}
    # Beside a 0-d parameter everything is 0-d; what is a scalar shows beside the others.
    scalars = {key for p, entries in saved.items() if p.dim() for key, value in entries.items() if _is_scalar(value)}
    for param, entries in saved.items():
        own = optimizer.state.get(param, {})
        for key in scalars & entries.keys():
            own[key] = entries[key].to(own[key].device)


def _params(optimizer: SkippingOptimizer) -> list[nn.Parameter]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.dim()


def _zero_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Start momentum buffers at zero: torch allocates them unfilled at the first step and a skip leaves them so.

    Zero is exact: without dampening the first buffer is momentum * 0 + gradient, as torch defines it.
    """
    for group in optimizer.param_groups:
        for param in group["params"]:
            optimizer.state[param][_MOMENTUM] = torch.zeros_like(param)


class HostSteppedOptimizer:
    """Gives an optimizer without a fused form the same contract, at the price of one host read a step."""

    def __init__(self, optimizer: torch.optim.Optimizer, lr: Tensor) -> None:
        self._optimizer = optimizer
        self._lr = lr
        self.found_inf: Tensor | None = None
        self.param_groups = optimizer.param_groups

    @property
    def state(self) -> Mapping[Any, dict[str, Any]]:
        """Return the wrapped optimizer's state."""
        return self._optimizer.state

    def step(self) -> None:
        """Read skip and rate in one transfer, then step unless skipped."""
        assert self.found_inf is not None, "the loss scaler attaches found_inf before the first step"
        skipped, lr = torch.stack((self.found_inf.to(self._lr.dtype), self._lr)).tolist()
        if not skipped:
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            self._optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the wrapped optimizer's state."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the wrapped optimizer's state."""
        self._optimizer.load_state_dict(state_dict)
        for entries in self._optimizer.state.values():
            if isinstance(entries.get("step"), Tensor):
                entries["step"] = entries["step"].cpu()  # as torch makes it; on a GPU each step would read each one
        self.param_groups = self._optimizer.param_groups
