"""The magnitudes that bound a number format, from its name alone.

Torch-free, unlike `mptrain.precision.formats`, which has the same formats as things to round to; a test holds the two
together. Must not: round anything.
"""

from __future__ import annotations

from typing import NamedTuple

from mptrain.config.precision import FREE_FORMAT

_BITS = {"fp64": (11, 52), "fp32": (8, 23), "tf32": (8, 10), "fp16": (5, 10), "bf16": (8, 7)}
_NO_INFINITY = {(4, 3): 1, (3, 2): 0, (2, 3): 0, (2, 1): 0}
"""Open Compute Project formats whose top exponent holds numbers, and how many of its codes are NaN."""


class FormatRange(NamedTuple):
    """Positive magnitudes of one format."""

    smallest_subnormal: float
    smallest_normal: float
    largest: float


def format_range(name: str) -> FormatRange | None:
    """Return the range of fp64, fp32, tf32, fp16, bf16 or eXmY; None for another name."""
    free = FREE_FORMAT.fullmatch(name)
    if free is None and name not in _BITS:
        return None
    exponent, mantissa = _BITS[name] if free is None else (int(free[1]), int(free[2]))
    bias, epsilon = 2 ** (exponent - 1) - 1, 2.0**-mantissa
    normal = 2.0 ** (1 - bias)
    nan_codes = _NO_INFINITY.get((exponent, mantissa))
    top = 2**exponent - 1 - (nan_codes is None)
    if top == 0:  # one exponent bit beside infinity and NaN: all numbers are subnormal
        return FormatRange(normal * epsilon, normal, normal - normal * epsilon)
    return FormatRange(normal * epsilon, normal, (2 - (1 + (nan_codes or 0)) * epsilon) * 2.0 ** (top - bias))
