"""How fast this device multiplies: large products per format, and the model's own heaviest product.

Owns: those measurements, which take the place of a datasheet. Must not: know steps or models.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from mptrain.bench.products import Product
from mptrain.bench.stand import synchronize
from mptrain.precision.regions import DTYPES
from mptrain.precision.tf32 import set_tf32

_LAYOUTS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda left, right: left @ right.t(),
    lambda left, right: left @ right,
    lambda left, right: left.t() @ right,
)
"""The products of a linear layer: output, gradient of the input, gradient of the weight."""
_SIZES = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192)}
_CONVOLUTIONS = {"cpu": (4, 128, 30), "cuda": (64, 256, 58)}
"""Samples, channels in and out, and side of the images; on a CPU a few milliseconds, which others rarely interrupt."""
_MEASURED_S = 0.15
_BATCHES = 5
"""On a GPU, where single calls are too short for the host's clock."""
_LONGEST_S = 0.5
"""A product that takes longer ends the search: a larger one would take eight times as long."""


class Rate(NamedTuple):
    """The best rate of large products."""

    flops_per_s: float
    of: str
    """What reached it."""


def matrix_rate(fmt: str, device: torch.device) -> Rate | None:
    """Return the best rate of a few large products in `fmt` (fp64 fp32 tf32 fp16 bf16); None where torch has none.

    Square matrices, 2 n^3 operations; the layout that is fastest at the smallest size is kept: on a CPU, FP16 has a
    fast kernel for one of them only. And a convolution: torch computes it with another library, which can be the faster
    one (measured on an AMD CPU in FP32: by a quarter and more).
    """
    found: list[Rate] = []
    layouts = _LAYOUTS
    with _tf32(fmt):
        for size in _SIZES[device.type]:
            try:
                left, right = (torch.randn(size, size, device=device).to(_dtype(fmt)) for _ in range(2))
                took = {layout: seconds_per_call(partial(layout, left, right), device) for layout in layouts}
            except (NotImplementedError, RuntimeError):
                break
            layouts = (min(took, key=lambda layout: took[layout]),)
            found.append(Rate(2 * size**3 / took[layouts[0]], f"{size} x {size} matrices"))
            if took[layouts[0]] > _LONGEST_S:
                break
        with suppress(NotImplementedError, RuntimeError):
            found.append(_convolution_rate(fmt, device))
    return max(found, default=None)


def _convolution_rate(fmt: str, device: torch.device) -> Rate:
    samples, channels, side = _CONVOLUTIONS[device.type]
    image, weight = (
        torch.randn(shape, device=device).to(_dtype(fmt)).contiguous(memory_format=torch.channels_last)
        for shape in ((samples, channels, side, side), (channels, channels, 3, 3))
    )
    with torch.no_grad():
        seconds = seconds_per_call(partial(torch.conv2d, image, weight), device)
    flops = 2 * samples * (side - 2) ** 2 * channels**2 * 9
    return Rate(flops / seconds, f"a 3x3 convolution of {samples} x {channels} x {side} x {side}")


def product_rate(product: Product, fmt: str, device: torch.device) -> float | None:
    """Return the operations a second of one product in `fmt`; None where torch cannot run it alone."""
    with _tf32(fmt), torch.no_grad():
        try:
            return product.flops / seconds_per_call(product.bind(_dtype(fmt), device), device)
        except (NotImplementedError, RuntimeError):
            return None


def seconds_per_call(call: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call in about 0.15 s of calls: of the fastest one, on a GPU of the fastest fifth.

    The fastest, because other programs only ever make a call slower.
    """
    once = _elapsed(call, 1, device)
    if once > _LONGEST_S:
        return once
    once = _elapsed(call, 1, device)
    at_once = max(1, int(_MEASURED_S / once) // _BATCHES) if device.type == "cuda" else 1
    fastest, end = math.inf, time.perf_counter() + _MEASURED_S
    while math.isinf(fastest) or time.perf_counter() < end:
        fastest = min(fastest, _elapsed(call, at_once, device))
    return fastest / at_once


def _elapsed(call: Callable[[], object], count: int, device: torch.device) -> float:
    synchronize(device)
    began = time.perf_counter()
    for _ in range(count):
        call()
    synchronize(device)
    return time.perf_counter() - began


def _dtype(fmt: str) -> torch.dtype:
    return torch.float32 if fmt == "tf32" else DTYPES[fmt]


@contextmanager
def _tf32(fmt: str) -> Iterator[None]:
    """Leave TF32 off afterwards; a mode that is built sets its own."""
    set_tf32(fmt == "tf32")
    try:
        yield
    finally:
        set_tf32(False)
