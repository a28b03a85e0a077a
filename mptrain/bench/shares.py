"""Where a step's time goes, in a pass of its own that disturbs no timing.

Owns: two passes. The first takes the trainer's step with the device brought to rest between forward, backward and the
rest of the step ("optimizer": unscaling, clipping, update, scale). The second watches each operator: what multiplies
matrices, and what converts numbers between formats; on a GPU it sums their kernels as torch's profiler sees them, on a
CPU the operators' own time. A conversion inside another kernel is no operator and is not seen.
Must not: be trusted beyond a percent or two. Watching costs time of its own, so shares are of steps not watched.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C._autograd import DeviceType
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from mptrain.bench.modes import Contestant
from mptrain.bench.products import LIKE_A_PRODUCT
from mptrain.bench.stand import Stand, synchronize
from mptrain.interfaces import Batch
from mptrain.trainer.step import MicroLoss

_PASS_S = 1.0
_MOST_STEPS = 20
_COPIES = ("_to_copy", "copy_", "copy", "_foreach_copy_", "_foreach_copy")


@dataclass(frozen=True)
class Shares:
    """Shares of a step's time; the first three sum to 1."""

    forward: float
    backward: float
    optimizer: float
    casts: float | None
    """Conversions between formats; None where they cannot be told apart: compiled or emulated."""
    products: float | None
    device_busy: float | None
    """On a GPU: the share of the timed step in which a kernel runs; the rest, the device waits for the host."""

    def as_dict(self) -> dict[str, float | None]:
        """Return it as JSON-able data."""
        return asdict(self)


def measure_shares(stand: Stand, contestant: Contestant, step_s: float) -> Shares:
    """Return the shares of one mode whose timed step takes `step_s` seconds; medians over a second's steps, 3 to 20."""
    steps = max(3, min(int(_PASS_S / step_s), _MOST_STEPS))
    forward, backward, optimizer = _phases(stand, contestant, steps)
    total = forward + backward + optimizer
    casts = products = busy = None
    if not (contestant.emulated or contestant.config.train.compile):
        casts, products, busy = _operators(stand, contestant, steps, step_s)
    return Shares(forward / total, backward / total, optimizer / total, casts, products, busy)


def _phases(stand: Stand, contestant: Contestant, steps: int) -> tuple[float, float, float]:
    """Return the median seconds of forward, backward and the rest of a step."""
    clock = _Clock(stand.device)
    found = []
    with stand.built(contestant, wrap_loss=clock.of_loss, around_gradients=clock.of_gradients) as built:
        built()
        for _ in range(steps):
            clock.forward = clock.gradients = 0.0
            total = clock.seconds(built)
            found.append((clock.forward, clock.gradients - clock.forward, total - clock.gradients))
    forward, backward, rest = (statistics.median(part) for part in zip(*found, strict=True))
    return forward, backward, rest


class _Clock:
    """Sums what forward, and forward with backward, take."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.forward = self.gradients = 0.0

    def seconds(self, run: Callable[[], object]) -> float:
        synchronize(self._device)
        began = time.perf_counter()
        run()
        synchronize(self._device)
        return time.perf_counter() - began

    def of_loss(self, loss: MicroLoss) -> MicroLoss:
        def timed(part: Batch, whole: Batch | None) -> Tensor:
            results: list[Tensor] = []
            self.forward += self.seconds(lambda: results.append(loss(part, whole)))
            return results[0]

        return timed

    def of_gradients(self, compute: Callable[[], None]) -> None:
        self.gradients += self.seconds(compute)


def _operators(stand: Stand, contestant: Contestant, steps: int, step_s: float) -> tuple[float, float, float | None]:
    """Return the shares of casts and of products, and on a GPU of all kernels."""
    watch = _WatchOnGpu(step_s) if stand.device.type == "cuda" else _Watch()
    with stand.built(contestant) as built:
        built()
        with watch.recording(steps):
            for _ in range(steps):
                watch.step(built)
            synchronize(stand.device)
    return min(1.0, watch.casts), min(1.0, watch.products), watch.busy


class _Watch(TorchDispatchMode):
    """Sums the seconds of operators by kind; a CPU has finished an operator when it returns.

    Each watched step follows one that is not watched, of which its operators' times are shares.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.casts = self.products = 0.0
        self.busy: float | None = None
        self._seconds = {"casts": 0.0, "products": 0.0}
        self._found: list[dict[str, float]] = []

    @contextmanager
    def recording(self, steps: int) -> Iterator[None]:
        del steps
        yield
        self.casts, self.products = (statistics.median(step[kind] for step in self._found) for kind in self._seconds)

    def step(self, step: Callable[[], None]) -> None:
        began = time.perf_counter()
        step()
        whole = time.perf_counter() - began
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        with self:
            step()
        self._found.append({kind: seconds / whole for kind, seconds in self._seconds.items()})

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kind = kind_of(func, args, kwargs or {})
        return func(*args, **(kwargs or {})) if kind is None else self._watched(kind, func, args, kwargs or {})

    def _watched(self, kind: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        began = time.perf_counter()
        out = func(*args, **kwargs)
        self._seconds[kind] += time.perf_counter() - began
        return out


class _WatchOnGpu(_Watch):
    """Names the ranges of operators, and sums the kernels launched in them: shares of the timed step."""

    def __init__(self, step_s: float) -> None:
        super().__init__()
        self._step_s = step_s

    def step(self, step: Callable[[], None]) -> None:
        with self:
            step()

    @contextmanager
    def recording(self, steps: int) -> Iterator[None]:
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profiler:
            yield
        events = profiler.events()
        for kind in ("casts", "products"):
            # The range shows up on the device's timeline too; the host's own range knows the kernels of its operators.
            ranges = [e for e in events if e.name == _range(kind) and e.device_type is DeviceType.CPU]
            setattr(self, kind, sum(e.device_time_total for e in ranges) / 1e6 / steps / self._step_s)
        kernels = [e for e in events if e.device_type is not DeviceType.CPU and not e.is_user_annotation]
        self.busy = min(1.0, sum(e.time_range.elapsed_us() for e in kernels) / 1e6 / steps / self._step_s)

    def _watched(self, kind: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with torch.profiler.record_function(_range(kind)):
            return func(*args, **kwargs)


def _range(kind: str) -> str:
    return f"mptrain bench: {kind}"


def kind_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Return `casts` for a copy into another floating-point format, `products`, or None."""
    packet = getattr(func, "_overloadpacket", func)
    name = packet.__name__
    if name in _COPIES:
        formats = {leaf.dtype for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        formats |= {kwargs["dtype"]} if kwargs.get("dtype") else set()
        return "casts" if len(formats) > 1 and all(dtype.is_floating_point for dtype in formats) else None
    return "products" if packet in flop_registry or LIKE_A_PRODUCT.search(name) else None
