"""Native MXFP8 and NVFP4: linear layers over torchao's prototype kernels for Blackwell GPUs.

Owns: the layer that brings any input and weight to what those kernels take. Must not: decide which layers
(`float8.py`).

MXFP8: E4M3 in blocks of 32 under a power of two, rounded up (RCEIL), in all three products. NVFP4: E2M1 in blocks of
16 under an E4M3 scale and an FP32 one per tensor; torchao rounds gradients stochastically and spreads outliers of the
weight gradient's operands by a random Hadamard transform (arXiv:2509.25149), which the emulated mode does not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mptrain.precision.float8 import replace_layers, require_torchao

_Product = Callable[[Tensor, Tensor], Tensor]
"""(input (rows, in), weight (out, in)), both BF16 -> input @ weight.T (rows, out) in BF16, differentiable."""
_ROW_MULTIPLES = {"mxfp8": 32, "nvfp4": 128}
_SIGNS = (1, -1, -1, 1, -1, 1, 1, 1, -1, -1, 1, -1, 1, 1, -1, -1)
"""Signs of NVFP4's Hadamard transform: fixed, so that a resumed run rotates as the first one did."""


class BlockScaledLinear(nn.Linear):
    """A linear layer whose three products run on block-scaled operands, rounded from BF16.

    Rows are padded with zeros to whole blocks: they change no scale and no product.
    """

    def __init__(self, layer: nn.Linear, product: _Product, row_multiple: int) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self._product, self._row_multiple = product, row_multiple

    def forward(self, input: Tensor) -> Tensor:
        """Map inputs (..., in) to outputs (..., out) in autocast's format, or the input's own outside autocast."""
        kind = input.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else input.dtype
        rows = input.reshape(-1, self.in_features)
        with torch.autocast(kind, enabled=False):
            padded = functional.pad(rows.bfloat16(), (0, 0, 0, -len(rows) % self._row_multiple))
            output = self._product(padded, self.weight.bfloat16())[: len(rows)].to(dtype)
            if self.bias is not None:
                output = output + self.bias.to(dtype)
        return output.reshape(*input.shape[:-1], self.out_features)


def convert_mx(
    model: nn.Module, names: Collection[str], mode: Literal["mxfp8", "nvfp4"], *, emulate: bool = False
) -> None:
    """Convert the linear layers `names` of `model` to `mode`, in place; parameters and their names stay as they are.

    `emulate` (MXFP8 only) runs torchao's imitation anywhere, for tests. Raises CapabilityError.
    """
    require_torchao(mode)
    product = _mxfp8(emulate=emulate) if mode == "mxfp8" else _nvfp4()

    def make(layer: nn.Module) -> nn.Module:
        assert isinstance(layer, nn.Linear)
        return BlockScaledLinear(layer, product, _ROW_MULTIPLES[mode])

    replace_layers(model, names, make)


def _mxfp8(*, emulate: bool) -> _Product:
    from torchao.prototype.moe_training.mxfp8_linear import _to_mxfp8_then_scaled_mm
    from torchao.prototype.mx_formats.config import ScaleCalculationMode
    from torchao.quantization.quantize_.common.kernel_preference import KernelPreference

    return partial(
        _to_mxfp8_then_scaled_mm,
        kernel_preference=KernelPreference.EMULATED if emulate else KernelPreference.AUTO,
        scale_calculation_mode=ScaleCalculationMode.RCEIL,
    )


def _nvfp4() -> _Product:
    from torchao.prototype.moe_training.nvfp4_training.nvfp4_linear import nvfp4_linear

    return partial(nvfp4_linear, sign_vector=_SIGNS)
