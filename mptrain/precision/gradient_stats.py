"""How gradients sit in the range of the format they are computed in: magnitudes, zeros, and what lies below it.

Owns: what is measured on the device and what it means on the host. Must not: decide when to measure, or read the
device.

Scaled, a gradient element g is stored as g * scale, so range is judged of that: below the format's smallest normal it
has lost digits, below the smallest subnormal it is (or would be) lost altogether. Elements that were already flushed
to zero in the backward are among the zeros and cannot be told from true ones here; products that underflow are counted
where they are emulated (`mptrain.precision.emulation`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mptrain.precision.formats import NumberFormat

MEASURES = 6
"""Columns of what `measure` returns."""
_BUCKET = 2**24
"""Elements whose magnitudes are held at once: bounds the memory that a measurement takes."""

LOWEST_EXPONENT, HIGHEST_EXPONENT = -160, 130
"""Ends of a histogram: beyond every FP32 value. What FP64 holds beyond them is counted with the nearest."""
EXPONENTS = HIGHEST_EXPONENT - LOWEST_EXPONENT + 1
_PIECE = 2**20
"""Elements whose exponents are held at once: 8 bytes each."""
_SPREAD = 6
"""Bits of the mantissa that an exponent is counted by, and summed over at the end: gradients share few exponents, and a
GPU's threads would wait for one another to add to one count."""
_MANTISSA, _BIAS, _SPECIAL = 52, 1023, 2047
"""Of FP64 (IEEE 754): bits of the mantissa, bias of the exponent, and the exponent of infinities and NaNs."""

Scaled = tuple[Tensor, Tensor]
"""A gradient, and the loss scale (0-d) that its backward was multiplied by."""


class GradientStats(NamedTuple):
    """Statistics of one gradient, or of all together; amax and norm are unscaled."""

    elements: int
    zeros: int
    amax: float
    scaled_amax: float
    norm: float
    below_normal: int
    """Non-zero elements that lie, scaled, below the format's smallest normal."""
    below_subnormal: int
    """Non-zero elements that lie, scaled, below the format's smallest subnormal."""

    @property
    def zero_share(self) -> float:
        """Share of the elements that are zero."""
        return self.zeros / self.elements

    @property
    def below_normal_share(self) -> float:
        """Share of the non-zero elements below the smallest normal."""
        return self.below_normal / max(self.elements - self.zeros, 1)

    @property
    def below_subnormal_share(self) -> float:
        """Share of the non-zero elements below the smallest subnormal."""
        return self.below_subnormal / max(self.elements - self.zeros, 1)

    def headroom(self, fmt: NumberFormat) -> float | None:
        """Return the powers of two between the largest scaled element and the format's maximum; None where all are 0.

        Negative where the format could not hold it.
        """
        return math.log2(fmt.max) - math.log2(self.scaled_amax) if self.scaled_amax else None


@torch.no_grad()
def measure(grads: Mapping[str, Scaled], fmt: NumberFormat) -> tuple[list[str], Tensor, Tensor]:
    """Measure gradients on their device, without reading it.

    `grads` as the loss scaler leaves them: FP16 and BF16 ones are still multiplied by their scale, wider ones are not.
    Returns names and, row by row, FP64 (names, MEASURES), both for `read_stats`; and the scaled elements of all by
    exponent, int64 (EXPONENTS,), for `trimmed`.
    """
    names: list[str] = []
    measured: list[tuple[Tensor, Tensor]] = []
    for bucket in _buckets(grads):
        names += bucket
        measured.append(_measure_bucket([grads[name][0] for name in bucket], grads[bucket[0]][1], fmt))
    rows, histograms = zip(*measured, strict=True)
    return names, torch.cat(rows), torch.stack(histograms).sum(0)


def count_exponents(tensors: Sequence[Tensor]) -> Tensor:
    """Count the finite non-zero elements of all `tensors` together by e = floor(log2(|x|)), without reading the device.

    Returns int64 (EXPONENTS,), of which the first is LOWEST_EXPONENT. FP64 holds every other format's values as normal
    numbers, whose exponent is read off their bits.
    """
    device = tensors[0].device
    table = torch.zeros((_SPECIAL + 1) << _SPREAD, dtype=torch.int64, device=device)
    one = torch.ones((), dtype=torch.int64, device=device)
    wide = torch.empty(min(_PIECE, max(values.numel() for values in tensors)), dtype=torch.float64, device=device)
    for values in tensors:
        for piece in _in_memory_order(values).split(_PIECE):
            bits = wide[: len(piece)].copy_(piece).view(torch.int64)
            at = bits.bitwise_right_shift_(_MANTISSA - _SPREAD).bitwise_and_(len(table) - 1)  # without the sign
            table.index_add_(0, at, one.expand(len(at)))
            table[0] -= len(at) - piece.count_nonzero()  # where the zeros are
    counts = table.view(_SPECIAL + 1, -1).sum(1)
    first, end = LOWEST_EXPONENT + _BIAS, HIGHEST_EXPONENT + _BIAS + 1
    inside = counts[first:end].clone()
    inside[0] += counts[:first].sum()
    inside[-1] += counts[end:_SPECIAL].sum()
    return inside


def _in_memory_order(values: Tensor) -> Tensor:
    """Return all elements (n,), as they lie if nothing is between them: to read them in another order takes longer."""
    return values.permute(sorted(range(values.dim()), key=values.stride, reverse=True)).flatten()


def trimmed(counts: Sequence[float]) -> tuple[int, tuple[int, ...]]:
    """Return what `count_exponents` counted, now on the host, without the empty ends: first exponent, and counts.

    Where all are zero: 0 and no counts.
    """
    found = [index for index, count in enumerate(counts) if count]
    if not found:
        return 0, ()
    return LOWEST_EXPONENT + found[0], tuple(int(count) for count in counts[found[0] : found[-1] + 1])


def read_stats(
    names: Sequence[str], rows: Sequence[Sequence[float]], elements: Sequence[int]
) -> dict[str, GradientStats]:
    """Return the statistics by parameter from what `measure` returned, by now on the host."""
    found = {}
    for name, (amax, scaled_amax, norm, *counts), count in zip(names, rows, elements, strict=True):
        nonzero, under_normal, under_subnormal = map(int, counts)
        zeros = count - nonzero
        # A bound so small that a low gradient's dtype has it as zero has nothing below it, not even the zeros.
        below = [max(under - zeros, 0) for under in (under_normal, under_subnormal)]
        found[name] = GradientStats(count, zeros, amax, scaled_amax, norm, *below)
    return found


def total(stats: Iterable[GradientStats]) -> GradientStats:
    """Return the statistics of all gradients together; a NaN among the magnitudes stays visible."""
    each = list(stats)
    return GradientStats(
        elements=sum(one.elements for one in each),
        zeros=sum(one.zeros for one in each),
        amax=_largest(one.amax for one in each),
        scaled_amax=_largest(one.scaled_amax for one in each),
        norm=math.hypot(*(one.norm for one in each)),
        below_normal=sum(one.below_normal for one in each),
        below_subnormal=sum(one.below_subnormal for one in each),
    )


def _largest(values: Iterable[float]) -> float:
    each = list(values)
    return math.nan if any(map(math.isnan, each)) else max(each)


def _measure_bucket(grads: list[Tensor], scale: Tensor, fmt: NumberFormat) -> tuple[Tensor, Tensor]:
    """Return FP64 (gradients, MEASURES), and the histogram of all.

    The measures are amax, scaled amax, norm; how many are not 0, below normal, below subnormal (the last two with the
    zeros).
    """
    magnitudes = torch._foreach_abs(grads)
    amax, norm = (torch.stack(values).double() for values in (torch._foreach_max(magnitudes), _norms(grads)))
    if grads[0].dtype.itemsize < 4:  # still scaled
        sizes = [amax / scale, amax, norm / scale]
    else:
        sizes = [amax, amax * scale, norm]
        torch._foreach_mul_(magnitudes, scale)
    counts = []
    for values in magnitudes:
        # There is no foreach kernel that counts; a sum of ones in FP32 stops at 2**24.
        counts += [values.count_nonzero()]
        counts += [(values < bound).count_nonzero() for bound in (fmt.smallest_normal, fmt.smallest_subnormal)]
    rows = torch.cat([torch.stack(sizes, dim=1), torch.stack(counts).view(len(grads), 3).double()], dim=1)
    return rows, count_exponents(magnitudes)


def _norms(grads: list[Tensor]) -> list[Tensor]:
    if grads[0].dtype.itemsize < 4:
        return list(torch._foreach_norm(grads, 2, dtype=torch.float32))
    return list(torch._foreach_norm(grads))


def _buckets(grads: Mapping[str, Scaled]) -> Iterator[list[str]]:
    """Group the names of gradients of one dtype, which foreach kernels want, and one scale; and within that by size."""
    alike: dict[tuple[torch.dtype, int], list[str]] = {}
    for name, (grad, scale) in grads.items():
        alike.setdefault((grad.dtype, id(scale)), []).append(name)
    for names in alike.values():
        bucket: list[str] = []
        held = 0
        for name in names:
            size = grads[name][0].numel()
            if bucket and held + size > _BUCKET:
                yield bucket
                bucket, held = [], 0
            bucket.append(name)
            held += size
        yield bucket
