"""Scaled quantisation: what a tensor is worth after a trip through a narrow format and back.

Owns: how elements share scales (tensor, row, block), the scales themselves (FP32, powers of two, E4M3), and that no
saturation hides a non-finite element. Must not: multiply operands (`emulated_gemm.py`) or choose formats.

FP32 scales follow torchao's float8 training (float8/float8_utils.py), pow2 its scales rounded to powers of two and its
RCEIL mode for MX blocks, e8m0 the Open Compute Project's microscaling formats 1.0, section 6.3, as torchao's FLOOR mode
(prototype/mx_formats/mx_tensor.py), e4m3 NVIDIA's two-level scales of NVFP4 (prototype/mx_formats/nvfp4_tensor.py). An
infinite maximum makes a scale 0 or infinite, and 0 / 0 and 0 * infinity make NaN of all that shares it; a NaN does so
by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from mptrain.precision.formats import NumberFormat, get_format, round_to_format

_SMALLEST_AMAX = 1e-12
"""torchao's EPS: zeros get a finite FP32 scale."""
_SMALLEST_POWER = 2.0**-126
"""e8m0 goes one lower, where FP32 is subnormal and some devices flush to zero; torchao stops here too."""
_SMALLEST_TENSOR_SCALE = 2.0**-100
"""Keeps the reciprocals of NVFP4's scales finite in FP32."""


@dataclass(frozen=True)
class OperandScaling:
    """How an operand's elements share scales."""

    kind: Literal["none", "tensor", "row", "block"]
    """One scale per tensor, per slice along the product's inner dimension, or per block of such a slice."""
    block_size: int = 32
    scale_format: Literal["fp32", "pow2", "e8m0", "e4m3"] = "fp32"
    """pow2: a power of two, under which nothing saturates; e8m0: MX's power of two, under which the largest may; e4m3:
    under one FP32 scale for the whole tensor."""


@torch.no_grad()
def fake_quantize(x: Tensor, fmt: NumberFormat, scaling: OperandScaling, dim: int) -> Tensor:
    """Return `x` as FP32 after scaling it into `fmt`, rounding to nearest with saturation, and scaling back.

    `dim` is the inner (summed) dimension of the product that `x` goes into. FP16 and BF16 are widened first. One NaN
    or infinity turns everything that shares its scale into NaN. Formats with FP32's exponent range are only rounded,
    since nothing needs scaling into them. Unscaled, formats of 16 bits and more overflow to infinity as their casts do.
    """
    x = x.float()
    if x.numel() == 0:
        return x
    if scaling.kind == "none" or fmt.exponent_bits >= 8:
        return _round_unscaled(x, fmt)
    groups, shared = _grouped(x, scaling, dim)
    amax = groups.abs().amax(shared, keepdim=True)
    if scaling.scale_format in ("pow2", "e8m0"):
        scale = _power_of_two_scale(amax, fmt, saturates=scaling.scale_format == "e8m0")
        result = round_to_format(groups / scale, fmt, saturate=True).mul_(scale)
    elif scaling.scale_format == "e4m3":
        scale, reciprocal = _two_level_scale(amax, fmt)
        result = round_to_format(groups * reciprocal, fmt, saturate=True).mul_(scale)
    else:
        scale = _fp32_scale(amax, fmt)
        result = round_to_format(groups * scale, fmt, saturate=True).div_(scale)
    if scaling.kind != "block":
        return result
    dim %= x.dim()
    return result.flatten(dim, dim + 1).narrow(dim, 0, x.shape[dim])


def _round_unscaled(x: Tensor, fmt: NumberFormat) -> Tensor:
    """Round without a scale; below 16 bits hardware casts saturate, and infinity must not pass for the maximum."""
    if fmt.bits >= 16:
        return round_to_format(x, fmt)
    return torch.where(x.isfinite(), round_to_format(x, fmt, saturate=True), math.nan)


def _grouped(x: Tensor, scaling: OperandScaling, dim: int) -> tuple[Tensor, tuple[int, ...]]:
    """Return `x` and the dimensions that share a scale; blocks get one of their own, the last padded with zeros."""
    if scaling.kind == "tensor":
        return x, tuple(range(x.dim()))
    dim %= x.dim()
    if scaling.kind == "row":
        return x, (dim,)
    block = min(scaling.block_size, x.shape[dim])
    missing = -x.shape[dim] % block
    if missing:
        x = pad(x, (0, 0) * (x.dim() - 1 - dim) + (0, missing))
    return x.unflatten(dim, (-1, block)), (dim + 1,)


def _fp32_scale(amax: Tensor, fmt: NumberFormat) -> Tensor:
    """Return the factor that takes `amax` to the format's maximum, divided in FP64 as `amax_to_scale` does."""
    return (fmt.max / amax.double().clamp(min=_SMALLEST_AMAX)).float()


def _power_of_two_scale(amax: Tensor, fmt: NumberFormat, *, saturates: bool) -> Tensor:
    """Return the power of two to divide by: the one that takes `amax`'s power of two to the maximum's, or the smallest
    that takes `amax` to the maximum or below."""
    if saturates:
        return (_power_of_two(amax) / 2.0**fmt.max_exponent).clamp_(min=_SMALLEST_POWER)
    ratio = amax / fmt.max
    below = _power_of_two(ratio)
    return torch.where(below < ratio, 2 * below, below).clamp_(min=_SMALLEST_POWER)


def _power_of_two(x: Tensor) -> Tensor:
    """Return the largest power of two up to each non-negative FP32 number; infinity for what is not finite."""
    return x.view(torch.int32).bitwise_and(0x7F800000).view(torch.float32)


def _two_level_scale(amax: Tensor, fmt: NumberFormat) -> tuple[Tensor, Tensor]:
    """Return each group's E4M3 scale times the tensor's FP32 scale, and the reciprocal to multiply with.

    The tensor's scale puts the largest group's at E4M3's maximum; the order of operations is `nvfp4_quantize`'s.
    """
    e4m3 = get_format("e4m3")
    tensor_scale = (amax.amax() / (e4m3.max * fmt.max)).clamp_(min=_SMALLEST_TENSOR_SCALE)
    group_scale = (amax / fmt.max / tensor_scale).clamp_(min=e4m3.smallest_normal, max=e4m3.max)
    group_scale = round_to_format(group_scale, e4m3)
    return group_scale * tensor_scale, tensor_scale.reciprocal() / group_scale
