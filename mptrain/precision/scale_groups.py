"""Loss scales of single modules (`loss_scale.groups`): gradients inside a group run at the group's scale.

    backward:  ... at the main scale -> * group/main -> [ the group's modules ] -> * main/group -> ... at the main scale

The two factors are applied where gradients enter a module of the group (its outputs) and leave it (its inputs), in at
least FP32, by a copy in the forward. Each group's parameters are unscaled with its own scale. A tensor that a
module reads other than through the arguments of its forward carries its gradient out unconverted.

Whose scale overflowed: an infinity in one place makes everything further down the backward non-finite. A group is to
blame where its gradients are not finite though those that entered it were, the main scale where no group is. The
others stand still in such a step: they saw nothing of their own gradients.

Owns: the groups, their borders and the blame. Must not: know the trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from mptrain.config.precision import LossScaleConfig
from mptrain.errors import ConfigError
from mptrain.precision.loss_scaler import DynamicLossScaler, LossScaler
from mptrain.precision.overrides import match_modules
from mptrain.precision.scalers import make_scaler


@dataclass(frozen=True)
class GroupedModules:
    """The modules that one entry of `loss_scale.groups` means."""

    match: str
    roots: Mapping[str, nn.Module]
    """The outermost ones."""
    params: Sequence[nn.Parameter]


def find_groups(model: nn.Module, config: LossScaleConfig) -> list[GroupedModules]:
    """Return the modules and trainable parameters of each group.

    Raises ConfigError for a match without modules or trainable parameters, for a module that two groups mean, and for
    a parameter that is also used outside its group.
    """
    groups: list[GroupedModules] = []
    group_of: dict[nn.Module, GroupedModules] = {}
    for index, entry in enumerate(config.groups):
        key = f"precision.loss_scale.groups[{index}]"
        matched = match_modules(model, entry.match, key=key)
        roots = {n: m for n, m in matched.items() if not any(n.startswith(f"{outer}.") for outer in matched)}
        params = list(dict.fromkeys(p for root in roots.values() for p in root.parameters() if p.requires_grad))
        if not params:
            raise ConfigError(f"{key}: {entry.match!r} has no trainable parameter; leave it out")
        group = GroupedModules(entry.match, roots, params)
        for name, root in roots.items():
            for inner in root.modules():
                other = group_of.setdefault(inner, group)
                if other is not group:
                    raise ConfigError(
                        f"{key}: {entry.match!r} and {other.match!r} both mean '{name}'; make them disjoint"
                    )
        groups.append(group)
    _refuse_shared_parameters(model, groups, group_of)
    return groups


def _refuse_shared_parameters(
    model: nn.Module, groups: Iterable[GroupedModules], group_of: Mapping[nn.Module, GroupedModules]
) -> None:
    inside = {param: group for group in groups for param in group.params}
    for path, module in model.named_modules():
        for name, param in module.named_parameters(prefix=path, recurse=False):
            if param in inside and group_of.get(module) is not inside[param]:
                raise ConfigError(
                    f"precision.loss_scale.groups: {inside[param].match!r} shares a weight with '{name}' outside it, "
                    "whose gradient has another scale; take both into the group or neither"
                )


def make_grouped_scaler(kind: str, config: LossScaleConfig, model: nn.Module, device: torch.device) -> LossScaler:
    """Return the scaler for a resolved `kind` over the trainable parameters of `model`, with the groups of `config`.

    A precision without loss scaling (kind none) has no groups either. Raises ConfigError as `find_groups` does.
    """
    trainable = [param for param in model.parameters() if param.requires_grad]
    groups = find_groups(model, config)
    if not groups or kind == "none":
        return make_scaler(kind, config, trainable, device)
    scales = []
    for entry, group in zip(config.groups, groups, strict=True):
        own = config.model_copy(update={"init_scale": entry.init_scale or config.init_scale})
        scales.append(ScaleGroup(group, DynamicLossScaler(own, group.params, device), device))
    grouped = {param for group in groups for param in group.params}
    main = make_scaler(kind, config, [param for param in trainable if param not in grouped], device)
    return GroupedLossScaler(main, scales, trainable, device)


class Border:
    """Where gradients enter or leave a group: their factor, and whether one that was not finite came by."""

    def __init__(self, device: torch.device) -> None:
        self.factor = torch.ones((), device=device)
        self.bad = torch.zeros((), device=device)

    def check_and_scale(self, grad: Tensor, other: Border) -> Tensor:
        """Return `grad` times the factor; note what is not finite unless the group's `other` border had noted it first.

        In at least FP32: the factor itself may be beyond the range of FP16.
        """
        work = grad.to(torch.promote_types(grad.dtype, torch.float32), copy=True)
        bad = torch.zeros_like(self.bad)
        torch._amp_foreach_non_finite_check_and_unscale_([work], bad, self.factor)
        torch.maximum(self.bad, bad.sub_(other.bad), out=self.bad)
        return work.to(grad.dtype)


class ScaleGradient(torch.autograd.Function):
    """The identity; its backward takes the gradient across a border."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, border: Border, other: Border) -> Tensor:
        """Return a copy of `value`: a view made here could not be changed in place by what follows."""
        ctx.source, ctx.border, ctx.other = value, border, other
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient on the other side."""
        return ctx.border.check_and_scale(grads[0], ctx.other), None, None


class ScaleGroup:
    """One group: its scaler and its borders."""

    def __init__(self, modules: GroupedModules, scaler: DynamicLossScaler, device: torch.device) -> None:
        self.match = modules.match
        self.params = modules.params
        self.scaler = scaler
        self._inwards, self._outwards = Border(device), Border(device)
        for root in modules.roots.values():
            root.register_forward_pre_hook(self._on_inputs, with_kwargs=True)
            root.register_forward_hook(self._on_output)

    def follow(self, main_scale: Tensor) -> None:
        """Set the factors for a main scale (0-d), and forget what came by."""
        torch.div(self.scaler.device_scale, main_scale, out=self._inwards.factor)
        torch.div(main_scale, self.scaler.device_scale, out=self._outwards.factor)
        self._inwards.bad.zero_()
        self._outwards.bad.zero_()

    def is_to_blame(self) -> Tensor:
        """Return 1.0 (0-d) where gradients became infinite inside."""
        inside = torch.maximum(self.scaler.outcome.skipped, self._outwards.bad)
        return inside * (1 - self._inwards.bad)

    def _on_inputs(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        return _through((args, kwargs), self._outwards, self._inwards)

    def _on_output(self, module: nn.Module, args: Any, output: Any) -> Any:
        return _through(output, self._inwards, self._outwards)


def _through(values: Any, border: Border, other: Border) -> Any:
    """Return `values` with every tensor in them that takes a gradient led across the border.

    What has just left a module of the group into the next one stays inside: no detour by the main scale.
    """

    def cross(value: Tensor) -> Tensor:
        if not value.requires_grad:
            return value
        crossed: Any = value.grad_fn
        if getattr(crossed, "border", None) is other:
            source: Tensor = crossed.source
            return source
        copy: Tensor = ScaleGradient.apply(value, border, other)
        return copy

    return tree_map_only(Tensor, cross, values)


class GroupedLossScaler(LossScaler):
    """A main scaler and one for each group; the step skips where any gradient is not finite."""

    def __init__(
        self, main: LossScaler, groups: Sequence[ScaleGroup], params: Iterable[nn.Parameter], device: torch.device
    ) -> None:
        super().__init__(1.0, (), device)
        self._main = main
        self._groups = groups
        self._scalers = [main, *(group.scaler for group in groups)]
        owners = {param: group.scaler for group in groups for param in group.params}
        self._owner = {param: owners.get(param, main) for param in params}
        self.kind = main.kind
        self.scales_loss = main.scales_loss
        self._follow()

    @property
    def min_scale(self) -> float | None:
        """The floor of the main scale."""
        return self._main.min_scale

    @property
    def device_scale(self) -> Tensor:
        """The main scale in force (0-d)."""
        return self._main.device_scale

    def scale(self, loss: Tensor) -> Tensor:
        """Return the loss to call backward on, at the main scale."""
        return self._main.scale(loss)

    def read_gradients_from(self, source: Callable[[nn.Parameter], Tensor | None]) -> None:
        """See LossScaler."""
        super().read_gradients_from(source)
        for scaler in self._scalers:
            scaler.read_gradients_from(source)

    def scale_of(self, param: nn.Parameter) -> Tensor:
        """See LossScaler."""
        return self._owner[param].outcome.loss_scale

    def unscale_(self) -> None:
        """Divide each gradient by its own scale; the outcome's scale is the main one."""
        for scaler in self._scalers:
            scaler.outcome.loss.copy_(self.outcome.loss)
            scaler.unscale_()
        self.outcome.loss_scale.copy_(self._main.outcome.loss_scale)
        torch.amax(torch.stack([scaler.outcome.skipped for scaler in self._scalers]), 0, out=self.outcome.skipped)

    def clip_value_(self, max_value: float) -> None:
        """See LossScaler."""
        for scaler in self._scalers:
            scaler.clip_value_(max_value)

    def finish_(self, grads: list[Tensor], params: Sequence[nn.Parameter]) -> None:
        """See LossScaler."""
        for scaler in self._scalers:
            own = [(g, p) for g, p in zip(grads, params, strict=True) if self._owner[p] is scaler]
            if own:
                scaler.finish_([grad for grad, _ in own], [param for _, param in own])

    def update(self) -> None:
        """Let the scale that overflowed back off; the others grow only over steps that were applied."""
        skipped = self.outcome.skipped
        bad_loss = self.outcome.loss.isfinite().logical_not_()
        blames = [group.is_to_blame() for group in self._groups]
        blames.insert(0, skipped * (1 - torch.stack(blames).amax()))
        for scaler, blame in zip(self._scalers, blames, strict=True):
            scaler.adjust(blame, bad_loss.logical_or(skipped > blame))
        self._follow()

    def current_scale(self) -> float | None:
        """Read the main scale (waits for the device)."""
        return self._main.current_scale()

    def current_group_scales(self) -> dict[str, float]:
        """Read the groups' scales by their `match` (waits for the device)."""
        return {group.match: float(group.scaler.device_scale) for group in self._groups}

    def state_dict(self) -> dict[str, Any]:
        """Return the main scaler's state, with the groups' by their `match`."""
        return self._main.state_dict() | {"groups": {group.match: group.scaler.state_dict() for group in self._groups}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state; groups that it does not know begin afresh."""
        self._main.load_state_dict(state)
        self._load_groups(state)

    def take_over(self, state: dict[str, Any]) -> str | None:
        """See LossScaler."""
        words = self._main.take_over(state)
        self._load_groups(state if "scale" in state else state.get("dormant") or state)
        return words

    def _load_groups(self, state: dict[str, Any]) -> None:
        saved = state.get("groups", {})
        for group in self._groups:
            if group.match in saved:
                group.scaler.load_state_dict(saved[group.match])
        self._follow()

    def _follow(self) -> None:
        for group in self._groups:
            group.follow(self._main.device_scale)

    def _params_with_norm(self) -> list[nn.Parameter]:
        return [param for scaler in self._scalers for param in scaler._params_with_norm()]

    def _norms(self) -> list[Tensor]:
        return [norm for scaler in self._scalers for norm in scaler._norms()]

    def _multiply(self, factor: Tensor) -> None:
        for scaler in self._scalers:
            scaler._multiply(factor)
