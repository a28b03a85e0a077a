"""The matrix products of a step: how many operations they are, which is the heaviest, and how fast it runs alone.

Owns: counting (torch's FlopCounterMode, with what it lacks) and running one product again in another format. Must not:
time a whole step.

Counted are products and convolutions of forward and backward of one step, 2 m n k each, in the first mode that has the
memory: what a precision does to them changes their speed, not their number. Causal attention counts whole.
FlopCounterMode (torch 2.14) knows no CPU attention, and takes the weight gradient of a grouped convolution for an
ungrouped one; both are put right here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from mptrain.bench.modes import Contestant
from mptrain.bench.stand import Stand

_aten = torch.ops.aten
LIKE_A_PRODUCT = re.compile(r"convol|conv\d|_rnn|attention|^linear|mkldnn_linear|(^|_)mm$")
"""Names of operators that multiply matrices; one that has no formula makes the count a wrong one."""


def _cpu_attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _cpu_attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


def _convolution_backward(grad: Any, x: Any, weight: Any, *rest: Any, **_: Any) -> int:
    """Each gradient takes as many products as the forward: 2 per weight element, sample and place it is put at."""
    transposed, wanted = rest[4], rest[7]
    places = x[2:] if transposed else grad[2:]
    return int(2 * x[0] * prod(places) * prod(weight) * sum(wanted[:2]))


_FORMULAS: dict[Any, Callable[..., int]] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_attention_backward,
    _aten.convolution_backward: _convolution_backward,
}


@dataclass(frozen=True)
class Product:
    """One call of an operator, as shapes: enough to call it again."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    flops: int
    """Of one call."""

    def line(self) -> str:
        """Return it in words, e.g. `addmm 128x784x256`, `convolution 64x64x28x28 by 64x64x3x3`."""
        name = self.function.__name__.partition(".")[0].removeprefix("_")
        shapes = [arg.shape for arg in self.args if isinstance(arg, _Shape)]
        if name in ("addmm", "mm", "bmm", "baddbmm"):
            left, right = shapes[-2:]
            return f"{name} {'x'.join(map(str, (*left, right[-1])))}"
        return f"{name} {' by '.join('x'.join(map(str, shape)) for shape in shapes[:2])}"

    def bind(self, dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
        """Return a call of it on random numbers of `dtype`."""
        made = {}

        def tensor(arg: object) -> object:
            if not isinstance(arg, _Shape):
                return arg
            if not arg.dtype.is_floating_point:
                return torch.zeros(arg.shape, dtype=arg.dtype, device=device)
            empty = torch.empty_strided(arg.shape, arg.stride, dtype=dtype, device=device)
            return empty.normal_()

        made["args"], made["kwargs"] = (tree_map(tensor, part) for part in (self.args, self.kwargs))
        return lambda: self.function(*made["args"], **made["kwargs"])


@dataclass(frozen=True)
class _Shape:
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Products:
    """What the products of one step are."""

    flops: int | None
    """None: some operator has no formula."""
    uncounted: tuple[str, ...]
    """Operators without a formula."""
    heaviest: Product | None
    """The forward product that takes most operations over all its calls of the same shapes."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return {
            "flops_per_step": self.flops,
            "uncounted": list(self.uncounted),
            "heaviest_product": self.heaviest and self.heaviest.line(),
        }


def count_products(stand: Stand, contestant: Contestant) -> Products:
    """Run one step and return what its forward and backward multiply; the optimizer is left out."""
    counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    log = _Log(counter.flop_registry)

    def counted(compute: Callable[[], None]) -> None:
        with log, counter:  # the counter goes inside: it takes composite operators apart, and the log sees the parts
            compute()

    with stand.built(contestant, around_gradients=counted, compiled=False) as built:
        built()
    flops = None if log.uncounted else int(counter.get_total_flops())
    heaviest = max(log.forward.values(), key=lambda calls: calls[0].flops * len(calls), default=None)
    return Products(flops, tuple(sorted(log.uncounted)), heaviest[0] if heaviest else None)


class _Log(TorchDispatchMode):
    def __init__(self, formulas: dict[Any, Callable[..., int]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._formulas = formulas
        self.uncounted: set[str] = set()
        self.forward: dict[tuple[str, str], list[Product]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        name = packet.__name__
        if packet in self._formulas:
            if "backward" not in name:
                flops = int(self._formulas[packet](*args, **(kwargs or {}), out_val=out))
                made = Product(func, tree_map(_shape, args), tree_map(_shape, kwargs or {}), flops)
                self.forward.setdefault((name, str(made.args)), []).append(made)
        elif LIKE_A_PRODUCT.search(name):
            self.uncounted.add(f"{func.namespace}.{name}")
        return out


def _shape(value: object) -> object:
    return _Shape(tuple(value.shape), value.stride(), value.dtype) if isinstance(value, Tensor) else value
