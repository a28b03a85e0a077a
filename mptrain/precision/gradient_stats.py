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

MEASURES = 5
"""Columns of what `measure` returns."""
_BUCKET = 2**24
"""Elements whose magnitudes are held at once: bounds the memory that a measurement takes."""

Named = tuple[str, Tensor]


class GradientStats(NamedTuple):
    """Statistics of one gradient, or of all together; magnitudes and norm are unscaled."""

    elements: int
    zeros: int
    amax: float
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

    def headroom(self, fmt: NumberFormat, scale: float) -> float | None:
        """Return the powers of two between the largest scaled element and the format's maximum; None where all are 0.

        Negative where the format could not hold it.
        """
        if self.amax == 0:
            return None
        return math.log2(fmt.max) - math.log2(self.amax) - math.log2(scale)


@torch.no_grad()
def measure(grads: Mapping[str, Tensor], scale: Tensor, fmt: NumberFormat) -> tuple[list[str], Tensor]:
    """Measure gradients on their device, without reading it.

    `grads` as the loss scaler leaves them: FP16 and BF16 ones are still multiplied by `scale` (0-d), wider ones are
    not. Returns names and, row by row, FP64 (names, MEASURES); `read_stats` takes both.
    """
    names: list[str] = []
    rows: list[Tensor] = []
    for bucket in _buckets(grads.items()):
        names += [name for name, _ in bucket]
        rows.append(_measure_bucket([grad for _, grad in bucket], scale, fmt))
    return names, torch.cat(rows)


def read_stats(
    names: Sequence[str], rows: Sequence[Sequence[float]], elements: Sequence[int]
) -> dict[str, GradientStats]:
    """Return the statistics by parameter from what `measure` returned, by now on the host."""
    found = {}
    for name, (amax, norm, *counts), count in zip(names, rows, elements, strict=True):
        nonzero, under_normal, under_subnormal = map(int, counts)
        zeros = count - nonzero
        # A bound so small that a low gradient's dtype has it as zero has nothing below it, not even the zeros.
        below = [max(under - zeros, 0) for under in (under_normal, under_subnormal)]
        found[name] = GradientStats(count, zeros, amax, norm, *below)
    return found


def total(stats: Iterable[GradientStats]) -> GradientStats:
    """Return the statistics of all gradients together; a NaN among the magnitudes stays visible."""
    each = list(stats)
    amaxes = [one.amax for one in each]
    return GradientStats(
        elements=sum(one.elements for one in each),
        zeros=sum(one.zeros for one in each),
        amax=math.nan if any(map(math.isnan, amaxes)) else max(amaxes),
        norm=math.hypot(*(one.norm for one in each)),
        below_normal=sum(one.below_normal for one in each),
        below_subnormal=sum(one.below_subnormal for one in each),
    )


def _measure_bucket(grads: list[Tensor], scale: Tensor, fmt: NumberFormat) -> Tensor:
    """Return FP64 (gradients, MEASURES): amax, norm, and how many are not zero, below normal, below subnormal.

    The last two count zeros too.
    """
    still_scaled = grads[0].dtype.itemsize < 4
    magnitudes = torch._foreach_abs(grads)
    sizes = torch.stack(torch._foreach_max(magnitudes)), torch.stack(_norms(grads))
    amax_and_norm = torch.stack([size.double() for size in sizes], dim=1)
    if still_scaled:
        amax_and_norm /= scale
    else:
        torch._foreach_mul_(magnitudes, scale)
    counts = []
    for values in magnitudes:
        # There is no foreach kernel that counts; a sum of ones in FP32 stops at 2**24.
        counts += [values.count_nonzero()]
        counts += [(values < bound).count_nonzero() for bound in (fmt.smallest_normal, fmt.smallest_subnormal)]
    return torch.cat([amax_and_norm, torch.stack(counts).view(len(grads), 3).double()], dim=1)


def _norms(grads: list[Tensor]) -> list[Tensor]:
    if grads[0].dtype.itemsize < 4:
        return list(torch._foreach_norm(grads, 2, dtype=torch.float32))
    return list(torch._foreach_norm(grads))


def _buckets(grads: Iterable[Named]) -> Iterator[list[Named]]:
    """Group gradients by dtype, which foreach kernels want to be one, and within that by size."""
    by_dtype: dict[torch.dtype, list[Named]] = {}
    for name, grad in grads:
        by_dtype.setdefault(grad.dtype, []).append((name, grad))
    for group in by_dtype.values():
        bucket: list[Named] = []
        held = 0
        for name, grad in group:
            if bucket and held + grad.numel() > _BUCKET:
                yield bucket
                bucket, held = [], 0
            bucket.append((name, grad))
            held += grad.numel()
        yield bucket
