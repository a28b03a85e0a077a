"""FP16, BF16 and TF32 arithmetic on any device: real low-precision tensors, products accumulated in FP32.

Owns: what a matrix product, a convolution or a fused CPU attention does while one of its modes is entered. Must not:
round a layer's operands below FP16 (`emulated_gemm.py`), store anything in low precision itself (autocast and the
model's own dtypes do), or be entered around an optimizer.

A tensor core multiplies two FP16 or BF16 numbers exactly, sums in FP32 and rounds once at the end. FP32 arithmetic does
the same: the product of two such numbers has at most 22 significant bits, of FP32's 24. So operands are widened, the
FP32 kernel runs, and its result is rounded. On a CPU this is also much faster than the native FP16 kernels, whose
convolution backward takes about 60 times FP32's. Every other operation runs natively, in the dtype of its tensors;
`nn.Bilinear` is one of them. Inside fused attention the probabilities stay in FP32.

A mode acts on what is dispatched while it is entered: enter it for forward, loss and backward. In-place and `out=`
variants, which no layer of torch reaches, run natively.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mptrain.precision.formats import get_format, round_to_format

_aten = torch.ops.aten


@dataclass(frozen=True)
class _Product:
    """Where an operation's products take their operands, and how many of its results are sums of products."""

    operands: tuple[int, ...]
    results: int = 1


_CONVOLUTION_BACKWARD = _aten.convolution_backward.default
_PRODUCTS: Mapping[Any, _Product] = {
    _aten.mm.default: _Product((0, 1)),
    _aten.bmm.default: _Product((0, 1)),
    _aten.mv.default: _Product((0, 1)),
    _aten.dot.default: _Product((0, 1)),
    _aten.addmm.default: _Product((1, 2)),
    _aten.baddbmm.default: _Product((1, 2)),
    _aten.addmv.default: _Product((1, 2)),
    _aten.convolution.default: _Product((0, 1)),
    _CONVOLUTION_BACKWARD: _Product((0, 1, 2), results=3),
    # The second result, the logarithm of the softmax's sum, is FP32 in the native kernel too.
    _aten._scaled_dot_product_flash_attention_for_cpu.default: _Product((0, 1, 2)),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward.default: _Product((0, 1, 2, 3), results=3),
}
_LOW = (torch.float16, torch.bfloat16)
_TF32 = get_format("tf32")


class Fp32Accumulation(TorchDispatchMode):
    """While entered, products of FP16 or BF16 operands are accumulated in FP32 and rounded once."""

    count_underflow = False
    """While set, count what rounding does to the results of products: some passes more over each of them."""
    _counts: Tensor | None = None

    def underflow_counts(self) -> Tensor:
        """Return (4,) int64 on the device: non-zero FP32 results; of them now zero, now subnormal, now infinite.

        Results that were infinite or NaN in FP32 already are among the non-zero ones only.
        """
        return torch.zeros(4, dtype=torch.int64) if self._counts is None else self._counts.clone()

    def reset_underflow_counts(self) -> None:
        """Start counting from zero."""
        if self._counts is not None:
            self._counts.zero_()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation; see the class."""
        product = _PRODUCTS.get(func)
        low = args[product.operands[0]].dtype if product else None
        if product is None or low not in _LOW:
            return func(*args, **(kwargs or {}))
        wide = func(*map(_widened, args), **{name: _widened(value) for name, value in (kwargs or {}).items()})
        if isinstance(wide, Tensor):
            return self._rounded(wide, low)
        sums, rest = wide[: product.results], wide[product.results :]
        return (*(self._rounded(result, low) for result in sums), *rest)

    def _rounded(self, wide: Tensor | None, low: torch.dtype) -> Tensor | None:
        if wide is None:  # a gradient that nobody asked for
            return None
        narrow = wide.to(low)
        if self.count_underflow:
            counts = _count(wide, narrow)
            self._counts = counts if self._counts is None else self._counts.add_(counts)
        return narrow


class Tf32Products(TorchDispatchMode):
    """While entered, operands of FP32 products are rounded to TF32, to nearest; sums and results stay in FP32.

    What is added to a product (a bias) is not an operand, nor is the sum that makes a convolution's bias gradient.
    """

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation; see the class."""
        product = _PRODUCTS.get(func)
        if product is None or args[product.operands[0]].dtype is not torch.float32:
            return func(*args, **(kwargs or {}))
        rounded = tuple(round_to_format(a, _TF32) if i in product.operands else a for i, a in enumerate(args))
        if func is _CONVOLUTION_BACKWARD:
            return _convolution_backward(func, rounded, grad_output=args[0])
        return func(*rounded, **(kwargs or {}))


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in _LOW else value


def _count(wide: Tensor, narrow: Tensor) -> Tensor:
    zeros = (narrow == 0).sum()
    non_zero = wide.count_nonzero()
    below_normal = (narrow.abs() < torch.finfo(narrow.dtype).smallest_normal).sum()
    infinite = narrow.isinf().sum() - wide.isinf().sum()
    return torch.stack((non_zero, zeros - (wide.numel() - non_zero), below_normal - zeros, infinite))


def _convolution_backward(func: Callable[..., Any], args: tuple[Any, ...], grad_output: Tensor) -> Any:
    """Return a convolution's gradients, the bias's from the unrounded `grad_output`."""
    *rounded, (wants_input, wants_weight, wants_bias) = args
    grad_input, grad_weight, _ = func(*rounded, [wants_input, wants_weight, False])
    others = [dim for dim in range(grad_output.dim()) if dim != 1]
    return grad_input, grad_weight, grad_output.sum(others) if wants_bias else None
