"""Number formats, and rounding of FP32 and FP64 tensors onto their grids.

Owns: what a format can hold (range, spacing, overflow) and both roundings, to nearest even and stochastic. Must not:
scale (`quantize.py`), or know modules, modes or devices.

A format with `e` exponent and `m` mantissa bits holds, per sign, zero, the subnormals k * 2**(1 - bias - m) for
0 < k < 2**m, and the normals (1 + k / 2**m) * 2**(c - bias) for exponent codes c = 1, 2, ..., where bias is
2**(e - 1) - 1. What the topmost codes mean is `special`. So within one power of two the grid is even: divide by its
step, round to an integer, multiply back. All three are exact, because the step is a power of two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from mptrain.config.precision import FREE_FORMAT, NAMED_FORMATS
from mptrain.errors import ConfigError


@dataclass(frozen=True)
class NumberFormat:
    """One binary floating-point format."""

    name: str
    exponent_bits: int
    mantissa_bits: int
    special: Literal["ieee", "fn", "finite"] = "ieee"
    """ieee: the top exponent holds infinity and NaN; fn: the topmost code is NaN; finite: every code is a number."""
    dtype: torch.dtype | None = None
    """torch's own type of this format, where it has one."""

    @property
    def bits(self) -> int:
        """Return the width of one number, sign included."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        """Return what is subtracted from an exponent's code."""
        return int(2 ** (self.exponent_bits - 1)) - 1

    @property
    def max(self) -> float:
        """Return the largest finite number."""
        top_code = 2**self.exponent_bits - 1 - (self.special == "ieee")
        if top_code == 0:  # one exponent bit beside infinity and NaN: all numbers are subnormal
            return self.smallest_normal - self.smallest_subnormal
        below_two = 2 * self.epsilon if self.special == "fn" else self.epsilon
        return float((2 - below_two) * 2.0 ** (top_code - self.bias))

    @property
    def max_exponent(self) -> int:
        """Return the power of two that `max` lies at or above."""
        return math.frexp(self.max)[1] - 1

    @property
    def smallest_normal(self) -> float:
        """Return the smallest positive number with full precision."""
        return float(2.0 ** (1 - self.bias))

    @property
    def smallest_subnormal(self) -> float:
        """Return the smallest positive number, which is the spacing of all below `smallest_normal`."""
        return self.smallest_normal * self.epsilon

    @property
    def epsilon(self) -> float:
        """Return the spacing of the numbers from 1 to 2."""
        return float(2.0**-self.mantissa_bits)


_OWN_NAMES = {"fp64": (11, 52), "fp32": (8, 23), "tf32": (8, 10), "fp16": (5, 10), "bf16": (8, 7)}
_SPECIAL: dict[tuple[int, int], Literal["fn", "finite"]] = {
    (4, 3): "fn",  # OCP 8-bit floating point specification 1.0
    (3, 2): "finite",  # OCP microscaling formats 1.0, as the two below
    (2, 3): "finite",
    (2, 1): "finite",
}
_DTYPES = {
    (11, 52): torch.float64,
    (8, 23): torch.float32,
    (8, 7): torch.bfloat16,
    (5, 10): torch.float16,
    (5, 2): torch.float8_e5m2,
    (4, 3): torch.float8_e4m3fn,
}


@cache
def get_format(name: str) -> NumberFormat:
    """Return the format called `name`: fp64, fp32, tf32, fp16, bf16, or eXmY.

    e4m3, e3m2, e2m3 and e2m1 are the Open Compute Project's; any other eXmY keeps its top exponent for infinity and
    NaN as IEEE 754 does. Raise ConfigError for another name, and for e1m0, which would hold nothing but zero.
    """
    free = FREE_FORMAT.fullmatch(name)
    if name not in _OWN_NAMES and (free is None or name == "e1m0"):
        why = "holds no number but zero" if free else "is not a number format"
        raise ConfigError(f"{name!r} {why}; one of {', '.join(NAMED_FORMATS)}, or eXmY (e4m3)")
    shape = _OWN_NAMES[name] if free is None else (int(free[1]), int(free[2]))
    return NumberFormat(name, *shape, _SPECIAL.get(shape, "ieee"), _DTYPES.get(shape))


@torch.no_grad()
def round_to_format(x: Tensor, fmt: NumberFormat, *, saturate: bool = False) -> Tensor:
    """Return FP32 or FP64 `x` rounded to the nearest number of `fmt`, ties to even, in the dtype of `x`.

    What rounds beyond `fmt.max` becomes ±max if `saturate` or if the format has only numbers, else infinity, or NaN
    where the format has no infinity. (torch's own cast to float8_e4m3fn gives NaN up to 2.11 and ±max from 2.12 on.)
    NaN stays NaN even where the format has none, so that no overflow can hide. Zeros keep their sign.
    """
    if _holds_all(fmt, x.dtype):
        return x
    saturate = saturate or fmt.special == "finite"
    if fmt.dtype in _EXACT_CASTS[x.dtype]:
        return (x.clamp(-fmt.max, fmt.max) if saturate else x).to(fmt.dtype).to(x.dtype)
    if _shares_exponent(fmt, x.dtype):
        bits = x.view(torch.int32)
        dropped = 23 - fmt.mantissa_bits
        to_even = (bits >> dropped).bitwise_and_(1)
        rounded = to_even.add_(bits).add_((1 << (dropped - 1)) - 1).bitwise_and_(-1 << dropped).view(torch.float32)
        rounded = torch.where(x.isnan(), x, rounded)  # the addition may carry a NaN's payload into the sign
    else:
        step = _step(x, fmt)
        rounded = (x / step).round_().mul_(step)
        if not saturate:
            overflow = rounded * math.inf if fmt.special == "ieee" else math.nan
            rounded = torch.where(rounded.abs() > fmt.max, overflow, rounded)
    return rounded.clamp_(-fmt.max, fmt.max) if saturate else rounded


@torch.no_grad()
def round_stochastic(x: Tensor, fmt: NumberFormat, generator: torch.Generator | None) -> Tensor:
    """Return FP32 or FP64 `x` rounded up or down to a number of `fmt`, in the dtype of `x`, so that its mean is `x`.

    Of its two neighbours the one further from zero is taken with probability (|x| - |nearer|) / spacing, resolved to
    2**-24; numbers of the format stay. Beyond `fmt.max`, and for infinity and NaN, the result is `round_to_format`'s.
    """
    if _holds_all(fmt, x.dtype):
        return x
    if _shares_exponent(fmt, x.dtype):
        dropped = 23 - fmt.mantissa_bits
        noise = _random_int32(x, generator).bitwise_and_((1 << dropped) - 1)
        rounded = noise.add_(x.view(torch.int32)).bitwise_and_(-1 << dropped).view(torch.float32)
    else:
        step = _step(x, fmt)
        quotient = (x / step).abs_()
        part = quotient.frac()
        uniform = torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        rounded = uniform.lt_(part).add_(quotient.sub_(part)).mul_(step).copysign_(x)
    return torch.where(x.abs() <= fmt.max, rounded, round_to_format(x, fmt))


_EXACT_CASTS: dict[torch.dtype, tuple[torch.dtype, ...]] = {
    torch.float32: (torch.float16, torch.bfloat16),  # measured faster than the grid; the FP8 casts are not
    torch.float64: (torch.float32,),  # torch casts FP64 to 16 bits by way of FP32, and so rounds twice
}


def _holds_all(fmt: NumberFormat, dtype: torch.dtype) -> bool:
    """Whether every number of `dtype` is one of `fmt`'s."""
    return fmt.dtype is torch.float64 or fmt.dtype is dtype


def _shares_exponent(fmt: NumberFormat, dtype: torch.dtype) -> bool:
    """Whether rounding an FP32's last bits away gives `fmt`: its subnormals, and infinity by carry, come for free.

    Not so for e8m0, where the last bit left is the exponent's, which says nothing about even.
    """
    return dtype is torch.float32 and fmt.exponent_bits == 8 and fmt.mantissa_bits > 0


def _step(x: Tensor, fmt: NumberFormat) -> Tensor:
    """Return the spacing of `fmt`'s numbers around each element of `x`, made from the exponent field of its bits.

    A step is a normal number wherever `_shares_exponent` is false. Infinity gets a finite one and survives division.
    """
    integer, field, bias = (torch.int32, 23, 127) if x.dtype is torch.float32 else (torch.int64, 52, 1023)
    exponent = x.view(integer).bitwise_and((2 * bias + 1) << field)
    exponent.clamp_((1 - fmt.bias + bias) << field, 2 * bias << field)
    return exponent.sub_(fmt.mantissa_bits << field).view(x.dtype)


def _random_int32(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return 32 random bits per element of `like`; two elements share a draw, which halves the time on a CPU."""
    draws = torch.empty((like.numel() + 1) // 2, dtype=torch.int64, device=like.device)
    draws.random_(torch.iinfo(torch.int64).min, None, generator=generator)
    return draws.view(torch.int32)[: like.numel()].view(like.shape)
