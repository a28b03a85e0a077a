"""Linear layers and convolutions whose three products take operands in number formats of their own.

Owns: which operand of which product is rounded along which dimension, and the layer's forward and backward around it.
Must not: choose formats (`plan.py`), round (`quantize.py`), or touch parameters, buffers and names of a layer.

    output      = input       * weight        summed over input features
    grad_input  = grad_output * weight        summed over output features
    grad_weight = grad_output * input         summed over rows: everything but the features

Each operand is quantised anew for each product, from the high-precision tensor, along the dimension which that product
sums over, as torchao's `matmul_with_hp_or_float8_args` does (torchao/float8/float8_linear.py). Like it, a layer
computes in its input's dtype or autocast's, takes the weight as it is stored, and adds the bias in the compute dtype.
Products are FP32, rounded once to the compute dtype.

A convolution is the product that its channels-last implicit GEMM computes: what is summed over runs position by
position, the group's channels fastest, and blocks are runs of that. A row is then a filter of the weight (for
grad_input: an input channel's weights), a sample's group of channels, and for grad_weight one channel of the whole
batch. (The GEMM's true rows are patches, which overlap: one element would need several scales.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mptrain.config.precision import NAMED_FORMATS
from mptrain.errors import ConfigError
from mptrain.precision.formats import NumberFormat, get_format
from mptrain.precision.modes import GemmFormats
from mptrain.precision.quantize import OperandScaling, fake_quantize

_COVERED: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def coverable(layer: nn.Module) -> str | None:
    """Return why the products of `layer` cannot be emulated, or None where they can."""
    name = type(layer).__name__
    base = next((base for base in _COVERED if isinstance(layer, base)), None)
    if base is None:
        return f"{name} is not covered; nn.Linear and nn.Conv1d, 2d and 3d are"
    if isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return "nn.MultiheadAttention uses its weight without calling it"
    return None if type(layer).forward is base.forward else f"{name} has a forward of its own"


def emulate_layer(layer: nn.Module, formats: GemmFormats) -> None:
    """Make `layer` compute its products on operands in `formats`; the last call counts.

    The layer stays the same object, with the same parameters, buffers, hooks and state_dict. Formats that hardware
    multiplies unscaled (fp32, tf32, fp16, bf16) are only rounded to, whatever `formats.scaling`. Raises ConfigError
    for a layer that is not `coverable`, and for FP64 operands.
    """
    reason = coverable(layer)
    if reason:
        raise ConfigError(f"formats of operands: {reason}; leave it out of precision.overrides")
    operands = _operands(formats)
    compute: Callable[[Any, Tensor, _Operands], Tensor] = _linear if isinstance(layer, nn.Linear) else _convolution

    def forward(self: nn.Module, input: Tensor) -> Tensor:
        device = input.device.type
        if torch.is_autocast_enabled(device):
            input = input.to(torch.get_autocast_dtype(device))
        with torch.autocast(device, enabled=False):  # the FP32 products inside must stay FP32
            return compute(self, input, operands)

    layer.forward = MethodType(forward, layer)  # bound, so that a deep copy of the layer calls the copy's weight


@dataclass(frozen=True)
class _Operand:
    """How one operand of one product is rounded."""

    format: NumberFormat
    scaling: OperandScaling

    def __call__(self, x: Tensor, *summed: int) -> Tensor:
        """Return `x` quantised in FP32; `summed` are the dimensions that the product sums over, the slowest first."""
        if len(summed) == 1 or self.scaling.kind in ("none", "tensor"):
            return fake_quantize(x, self.format, self.scaling, summed[0])
        last = tuple(range(-len(summed), 0))
        moved = x.movedim(summed, last)
        flat = fake_quantize(moved.flatten(-len(summed)), self.format, self.scaling, -1)
        return flat.view(moved.shape).movedim(last, summed)


class _Operands(NamedTuple):
    """The two operands of output, grad_input and grad_weight, in this order."""

    input: _Operand
    weight: _Operand
    grad_output: _Operand
    weight_for_grad_input: _Operand
    grad_output_for_grad_weight: _Operand
    input_for_grad_weight: _Operand


def _operands(formats: GemmFormats) -> _Operands:
    scaling = OperandScaling(formats.scaling, formats.block_size, formats.scale_format)
    unscaled = OperandScaling("none")

    def operand(name: str, scaling: OperandScaling = scaling) -> _Operand:
        if name == "fp64":
            raise ConfigError(
                "formats of operands: 'fp64' is wider than the FP32 that products are emulated in; use fp32"
            )
        return _Operand(get_format(name), unscaled if name in NAMED_FORMATS else scaling)

    whole = OperandScaling("tensor", formats.block_size, formats.scale_format)
    high = formats.high_precision_grad_weight
    return _Operands(
        operand(formats.input),
        operand(formats.weight),
        operand(formats.grad_output_for_input),
        operand(formats.weight, whole if high else scaling),
        operand("fp32" if high else formats.grad_output_for_weight),
        operand("fp32" if high else formats.input),
    )


def _linear(layer: nn.Linear, input: Tensor, operands: _Operands) -> Tensor:
    output: Tensor = _Linear.apply(input, layer.weight, operands)
    return _with_bias(output, layer.bias, 0)


def _with_bias(output: Tensor, bias: Tensor | None, positions: int) -> Tensor:
    """Return `output` (..., out, *) with `positions` dimensions after its features, plus `bias` (out)."""
    return output if bias is None else output + bias.to(output.dtype).reshape(-1, *[1] * positions)


class _Linear(torch.autograd.Function):
    """input (..., in), weight (out, in) -> output (..., out)."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, operands: _Operands) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.operands = operands
        rows = input.reshape(-1, input.shape[-1])
        output = operands.input(rows, 1) @ operands.weight(weight, 1).T
        return output.to(input.dtype).reshape(*input.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        input, weight = ctx.saved_tensors
        operands: _Operands = ctx.operands
        dtype = grad_output.dtype
        grad_rows = grad_output.reshape(-1, grad_output.shape[-1])
        grad_input = grad_weight = None
        with torch.autocast(grad_output.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                product = operands.grad_output(grad_rows, 1) @ operands.weight_for_grad_input(weight, 0)
                grad_input = product.to(dtype).reshape(input.shape)
            if ctx.needs_input_grad[1]:
                rows = operands.input_for_grad_weight(input.reshape(-1, input.shape[-1]), 0)
                product = operands.grad_output_for_grad_weight(grad_rows, 0).T @ rows
                grad_weight = product.to(dtype).to(weight.dtype)
        return grad_input, grad_weight, None


class _Geometry(NamedTuple):
    """A convolution's shape, in the order of aten's arguments."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int


def _convolution(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, input: Tensor, operands: _Operands) -> Tensor:
    none = (0,) * len(layer.kernel_size)
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        input, padding = functional.pad(input, layer._reversed_padding_repeated_twice, mode=mode), none
    else:
        padding = layer.padding
    geometry = _Geometry(layer.stride, padding, layer.dilation, False, none, layer.groups)
    unbatched = input.dim() == len(none) + 1
    output: Tensor = _Convolution.apply(input.unsqueeze(0) if unbatched else input, layer.weight, geometry, operands)
    output = _with_bias(output, layer.bias, len(none))
    return output.squeeze(0) if unbatched else output


class _Convolution(torch.autograd.Function):
    """input (N, in, *), weight (out, in / groups, *) -> output (N, out, *)."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, geometry: _Geometry, operands: _Operands) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.geometry, ctx.operands = geometry, operands
        rounded_input = _per_sample(operands.input, input, geometry.groups)
        rounded_weight = operands.weight(weight, *range(2, weight.dim()), 1)
        output: Tensor = torch.ops.aten.convolution(rounded_input, rounded_weight, None, *geometry)
        return output.to(input.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        input, weight = ctx.saved_tensors
        operands: _Operands = ctx.operands
        groups, dtype = ctx.geometry.groups, grad_output.dtype
        grad_input = grad_weight = None
        with torch.autocast(grad_output.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                grad = _per_sample(operands.grad_output, grad_output, groups)
                by_group = weight.unflatten(0, (groups, -1))
                by_group = operands.weight_for_grad_input(by_group, *range(3, by_group.dim()), 1)
                shape = grad.new_empty(()).expand(input.shape)
                grad_input = _gradient(0, grad, shape, by_group.flatten(0, 1), ctx.geometry).to(dtype)
            if ctx.needs_input_grad[1]:
                batch = (0, *range(2, input.dim()))
                grad = operands.grad_output_for_grad_weight(grad_output, *batch)
                shape = grad.new_empty(()).expand(weight.shape)
                rounded = operands.input_for_grad_weight(input, *batch)
                grad_weight = _gradient(1, grad, rounded, shape, ctx.geometry).to(dtype).to(weight.dtype)
        return grad_input, grad_weight, None, None


def _per_sample(operand: _Operand, x: Tensor, groups: int) -> Tensor:
    """Return `x` (N, channels, *) quantised for a product that sums over its positions and a group's channels."""
    by_group = x.unflatten(1, (groups, -1))
    return operand(by_group, *range(3, by_group.dim()), 2).flatten(1, 2)


def _gradient(which: int, grad_output: Tensor, input: Tensor, weight: Tensor, geometry: _Geometry) -> Tensor:
    """Return a convolution's gradient of its input (0) or weight (1); of that argument only the shape counts."""
    mask = [which == 0, which == 1, False]
    found = torch.ops.aten.convolution_backward(grad_output, input, weight, None, *geometry, mask)[which]
    assert isinstance(found, Tensor)
    return found
