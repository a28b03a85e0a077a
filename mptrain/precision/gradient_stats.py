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
def measure(grads: Mapping[str, Scaled], fmt: NumberFormat) -> tuple[list[str], Tensor]:
    """Measure gradients on their device, without reading it.

    `grads` as the loss scaler leaves them: FP16 and BF16 ones are still multiplied by their scale, wider ones are not.
    Returns names and, row by row, FP64 (names, MEASURES); `read_stats` takes both.
    """
    names: list[str] = []
    rows: list[Tensor] = []
    for bucket in _buckets(grads):
        names += bucket
        rows.append(_measure_bucket([grads[name][0] for name in bucket], grads[bucket[0]][1], fmt))
    return names, torch.cat(rows)


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


def _measure_bucket(grads: list[Tensor], scale: Tensor, fmt: NumberFormat) -> Tensor:
    """Return FP64 (gradients, MEASURES): amax, scaled amax, norm; how many are not 0, below normal, below subnormal.

    The last two count zeros too.
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
    return torch.cat([torch.stack(sizes, dim=1), torch.stack(counts).view(len(grads), 3).double()], dim=1)


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
