"""Loss scaling and the skip of non-finite steps, with all state in device tensors: the step never reads the host.

    loss * scale -> backward -> gradients / scale, checked -> optimizer.step() skips itself -> scale updated

Owns: the scale, its growth and back-off, and the decision to skip. Must not: count, log, or know the trainer.
A static scale of 1 is the null case, so FP32 and BF16 take the same path and get the same guard.

Dynamic scaling follows Micikevicius et al. 2018 (arXiv 1710.03740, section 3.2) as `torch.amp.GradScaler` implements
it (same kernels, equal scales step by step), with four differences: a floor and a ceiling; hysteresis as in
Megatron-LM; a non-finite *loss* leaves scale and growth tracker alone, since no scale can cure it; and skipping is a
device value (`outcome.skipped`), never a comparison of scales.

Gradients stored in FP16 or BF16 stay scaled: divided in their own format they would underflow, which is what the scale
prevents. For them `unscale_` only checks, clipping computes its factor in FP32, and `finish_` applies both to the FP32
copies that the optimizer of low-precision weights works on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mptrain.config.precision import LossScaleConfig
from mptrain.precision.outcome import DeviceOutcome


class LossScaler:
    """A constant loss scale; 1.0 is the null scaler."""

    kind = "static"

    def __init__(self, scale: float, params: Iterable[nn.Parameter], device: torch.device) -> None:
        self.outcome = DeviceOutcome(device)
        self.outcome.loss_scale.fill_(scale)
        self.scales_loss = scale != 1.0
        self._scale = torch.full((), scale, dtype=torch.float32, device=device)
        self._inverse = self._scale.double().reciprocal().float()
        self._one = torch.ones((), device=device)
        self._residue = torch.zeros((), device=device)
        self._params = list(params)
        self.gradient_of: Callable[[nn.Parameter], Tensor | None] = lambda param: param.grad
        """Where a parameter's gradient is; see `read_gradients_from`."""
        self._grads: list[Tensor] = []
        self._low_grads: list[Tensor] = []
        self._clip_norms: list[Tensor] = []
        self._pending: Tensor | None = None
        self._max_value: float | None = None
        self._dormant: dict[str, Any] | None = None

    @property
    def min_scale(self) -> float | None:
        """The floor of the scale; None where the scale cannot move."""
        return None

    @property
    def device_scale(self) -> Tensor:
        """The scale in force (0-d, on the device)."""
        return self._scale

    def attach(self, optimizer: Any) -> None:
        """Hand `outcome.skipped` to an optimizer whose `step` then skips by itself, as torch's fused kernels do."""
        optimizer.grad_scale = None
        optimizer.found_inf = self.outcome.skipped

    def scale(self, loss: Tensor) -> Tensor:
        """Return the loss to call backward on."""
        return loss * self._scale if self.scales_loss else loss

    def read_gradients_from(self, source: Callable[[nn.Parameter], Tensor | None]) -> None:
        """Take each parameter's gradient from `source` instead of `.grad`: where micro-batches are summed elsewhere."""
        self.gradient_of = source

    def scale_of(self, param: nn.Parameter) -> Tensor:
        """Return the scale (0-d, on the device) that this attempt multiplied the gradient of `param` by."""
        return self.outcome.loss_scale

    def unscale_(self) -> None:
        """Divide gradients by the scale in place; set `outcome.skipped` where loss or gradients are not finite.

        FP16 and BF16 gradients stay scaled (see `finish_`).
        """
        self._set_skipped(self.outcome.loss, accumulate=False)
        self._grads, self._low_grads = [], []
        for dtype, grads in self._gradients_by_dtype().items():
            low = dtype.itemsize < 4
            inverse = self._one if low else self._inverse
            torch._amp_foreach_non_finite_check_and_unscale_(grads, self.outcome.skipped, inverse)
            (self._low_grads if low else self._grads).extend(grads)
        self._pending = self._inverse if self.scales_loss else None
        self._max_value = None

    def clip_norm_(self, max_norm: float) -> None:
        """Clip the total norm of the unscaled gradients and record it; a norm that is not finite skips the step.

        The arithmetic of `torch.nn.utils.clip_grad_norm_`, in FP32 for FP16 and BF16 gradients.
        """
        self._clip_norms = self._norms()
        total = torch.linalg.vector_norm(torch.stack(self._clip_norms))
        self._multiply((max_norm / (total + 1e-6)).clamp_(max=1.0))
        self.outcome.grad_norm.copy_(total)
        # Finite gradients can still have an infinite norm, which would clip them all to zero.
        self._set_skipped(self.outcome.grad_norm, accumulate=True)

    def clip_norms(self) -> dict[nn.Parameter, Tensor]:
        """Return the norm (0-d) of each gradient as the last `clip_norm_` found it; empty where there was none."""
        return dict(zip(self._params_with_norm(), self._clip_norms, strict=True)) if self._clip_norms else {}

    def clip_value_(self, max_value: float) -> None:
        """Clip every element of the unscaled gradients to [-max_value, max_value]."""
        self._max_value = max_value
        if self._grads:
            torch._foreach_clamp_min_(self._grads, -max_value)
            torch._foreach_clamp_max_(self._grads, max_value)

    def finish_(self, grads: list[Tensor], params: Sequence[nn.Parameter]) -> None:
        """Unscale and clip in place the FP32 copies of gradients that this step left scaled in FP16 or BF16.

        `params` are the parameters they belong to, in the same order.
        """
        if self._pending is not None:
            torch._foreach_mul_(grads, self._pending)
        if self._max_value is not None:
            torch._foreach_clamp_min_(grads, -self._max_value)
            torch._foreach_clamp_max_(grads, self._max_value)

    def update(self) -> None:
        """Adjust the scale after a step; a static scale stays."""

    def adjust(self, overflow: Tensor, hold: Tensor) -> None:
        """Adjust the scale: back off where `overflow` (0-d) is 1, leave everything alone where `hold` (0-d) is true."""

    def current_scale(self) -> float | None:
        """Read the scale in force (waits for the device); None where the loss is not scaled."""
        return self._scale.item() if self.scales_loss else None

    def current_group_scales(self) -> dict[str, float]:
        """Read the scales of `loss_scale.groups` by their `match` (waits for the device)."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs; a moving scale that this constant one put aside is carried along."""
        return {"kind": self.kind, "dormant": self._dormant}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state of the same kind; the config decides a constant scale."""
        self._dormant = state.get("dormant")

    def take_over(self, state: dict[str, Any]) -> str | None:
        """Go on from the state of another kind, or of another precision; return in words what became of its scale."""
        self._dormant = _moving(state)
        return None if self._dormant is not state else f"loss scale {float(state['scale']):g} put aside"

    def _gradients_by_dtype(self) -> dict[torch.dtype, list[Tensor]]:
        """Return the gradients there are, grouped: foreach kernels take one dtype a call."""
        groups: dict[torch.dtype, list[Tensor]] = {}
        for param in self._params:
            grad = self.gradient_of(param)
            if grad is not None:
                groups.setdefault(grad.dtype, []).append(grad)
        return groups

    def _params_with_norm(self) -> list[nn.Parameter]:
        """Return the parameters that `_norms` is about, in its order: by dtype, FP16 and BF16 gradients last."""
        grads = {param: grad for param in self._params if (grad := self.gradient_of(param)) is not None}
        dtypes = list(dict.fromkeys(grad.dtype for grad in grads.values()))
        return sorted(grads, key=lambda p: (grads[p].dtype.itemsize < 4, dtypes.index(grads[p].dtype)))

    def _norms(self) -> list[Tensor]:
        """Return the unscaled norm of each gradient."""
        norms = list(torch._foreach_norm(self._grads)) if self._grads else []
        if self._low_grads:
            low = torch._foreach_norm(self._low_grads, 2, dtype=torch.float32)
            norms += torch._foreach_mul(low, self._inverse) if self.scales_loss else low
        return norms

    def _multiply(self, factor: Tensor) -> None:
        """Multiply every gradient by a 0-d factor, at once or when it is finished."""
        if self._grads:
            torch._foreach_mul_(self._grads, factor)
        if self._low_grads:
            self._pending = factor if self._pending is None else self._pending * factor

    def _set_skipped(self, value: Tensor, *, accumulate: bool) -> None:
        # x - x is 0 for finite x and NaN otherwise: two kernels where isfinite takes four.
        torch.sub(value, value, out=self._residue)
        if accumulate:
            self.outcome.skipped.logical_or_(self._residue)
        else:
            torch.ne(self._residue, 0, out=self.outcome.skipped)


class DynamicLossScaler(LossScaler):
    """A scale that backs off after an overflow and grows after `growth_interval` good steps in a row."""

    kind = "dynamic"

    def __init__(self, config: LossScaleConfig, params: Iterable[nn.Parameter], device: torch.device) -> None:
        super().__init__(config.init_scale, params, device)
        self.config = config
        self.scales_loss = True
        self._growth_tracker = torch.zeros((), dtype=torch.int32, device=device)
        self._hysteresis_left = torch.full((), config.hysteresis, dtype=torch.int32, device=device)

    @property
    def min_scale(self) -> float | None:
        """The floor of the scale."""
        return self.config.min_scale

    def unscale_(self) -> None:
        """See LossScaler; the reciprocal is taken in FP64, as GradScaler does."""
        self.outcome.loss_scale.copy_(self._scale)
        self._inverse.copy_(self._scale.double().reciprocal_())
        super().unscale_()

    def update(self) -> None:
        """Back off after an overflow, grow after enough good steps, hold after a non-finite loss."""
        self.adjust(self.outcome.skipped, self.outcome.loss.isfinite().logical_not_())

    def adjust(self, overflow: Tensor, hold: Tensor) -> None:
        """See LossScaler."""
        c, scale, tracker = self.config, self._scale, self._growth_tracker
        old_scale, old_tracker = scale.clone(), tracker.clone()
        overflowed = overflow
        if c.hysteresis > 1:
            overflow = self._spend_hysteresis(overflowed, hold)
        torch._amp_update_scale_(scale, tracker, overflow, c.growth_factor, c.backoff_factor, c.growth_interval)
        if c.hysteresis > 1:
            grown = (scale > old_scale).logical_and_(overflowed == 0)
            self._hysteresis_left.masked_fill_(grown, c.hysteresis)
            # A tolerated overflow keeps the scale but still ends the run of good steps.
            tolerated = overflowed.bool().logical_and_(overflow == 0)
            torch.where(tolerated, old_scale, scale, out=scale)
            tracker.masked_fill_(tolerated, 0)
        scale.clamp_(c.min_scale, c.max_scale)
        torch.where(hold, old_scale, scale, out=scale)
        torch.where(hold, old_tracker, tracker, out=tracker)

    def state_dict(self) -> dict[str, Any]:
        """Return scale, growth tracker and the hysteresis left."""
        return {
            "kind": self.kind,
            "scale": self._scale.clone(),
            "growth_tracker": self._growth_tracker.clone(),
            "hysteresis_left": self._hysteresis_left.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state of the same kind, within the bounds now configured."""
        self._scale.copy_(state["scale"]).clamp_(self.config.min_scale, self.config.max_scale)
        self._growth_tracker.copy_(state["growth_tracker"])
        self._hysteresis_left.copy_(state["hysteresis_left"]).clamp_(max=self.config.hysteresis)

    def take_over(self, state: dict[str, Any]) -> str | None:
        """See LossScaler; from another kind of moving scale only the scale is taken."""
        moving = _moving(state)
        if moving is None:
            return f"loss scale starts at {self.config.init_scale:g}"
        if moving["kind"] == self.kind:
            self.load_state_dict(moving)
        else:
            self._scale.copy_(moving["scale"]).clamp_(self.config.min_scale, self.config.max_scale)
        return f"loss scale {float(self._scale):g} {'goes on' if moving is state else 'is taken up again'}"

    def _spend_hysteresis(self, overflow: Tensor, hold: Tensor) -> Tensor:
        """Spend one unit on an overflow and return 1.0 only for an overflow that finds nothing left to spend."""
        spent = overflow.bool().logical_and(hold.logical_not())
        self._hysteresis_left.sub_(spent.int()).clamp_(min=0)
        return spent.logical_and_(self._hysteresis_left == 0).float()


def _moving(state: dict[str, Any]) -> dict[str, Any] | None:
    """Return the saved state of a scale that moves: this one, or the one that it put aside."""
    return state if "scale" in state else state.get("dormant")
