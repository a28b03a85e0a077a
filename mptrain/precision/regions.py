"""Runs single modules in another format than their surroundings.

Owns: the forward of a module under an override. Must not: decide which modules (`plan.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def run_in(module: nn.Module, inside: str, outside: str) -> None:
    """Make `module` compute in format `inside`, among modules that compute in `outside`; state and names stay.

    FP16 and BF16 are autocast regions; FP32 and FP64 switch autocast off and cast the inputs. Outputs go back to the
    format around, except FP32 ones among autocast modules: autocast takes them as they are, and a head in FP32 keeps
    its logits.
    """
    inner: Callable[..., Any] = module.forward
    low = inside in ("fp16", "bf16")
    dtype = DTYPES[inside]
    # Autocast leaves FP64 alone, so what comes from FP64 modules must be FP32 for it.
    entering = torch.float32 if low and outside == "fp64" else None if low else dtype
    leaving = _leaving(inside, outside)

    def forward(*args: Any, **kwargs: Any) -> Any:
        device_type = _device_type(args, kwargs)
        with torch.autocast(device_type, dtype=dtype if low else None, enabled=low, cache_enabled=False):
            if entering is not None:
                args, kwargs = tree_map(_to(entering), (args, kwargs))
            outputs = inner(*args, **kwargs)
        return outputs if leaving is None else tree_map(_to(leaving), outputs)

    module.forward = forward


def round_around(module: nn.Module, inside: str, outside: str) -> None:
    """Make `module`, which has no products, take and return FP16 or BF16 (`inside`) among modules in `outside`.

    Autocast would leave it to the format that its inputs happen to have. Between rounding its inputs and its outputs,
    a norm computes in the FP32 of its weights, as the kernels of 16-bit norms do.
    """
    inner: Callable[..., Any] = module.forward
    dtype = DTYPES[inside]
    leaving = _leaving(inside, outside)

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(_device_type(args, kwargs), enabled=False):
            args, kwargs = tree_map(_to(dtype), (args, kwargs))
            if any(parameter.dtype is torch.float32 for parameter in module.parameters()):
                args, kwargs = tree_map(_to(torch.float32), (args, kwargs))
            outputs = tree_map(_to(dtype), inner(*args, **kwargs))
        return outputs if leaving is None else tree_map(_to(leaving), outputs)

    module.forward = forward


def run_lstm_in_fp16(module: nn.Module) -> None:
    """Make an `nn.LSTM` compute in FP16 on a CPU, step by step: oneDNN's kernel, torch's choice, has no FP16."""
    inner: Callable[..., Any] = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        # The first state takes the inputs' format. Not torch.backends.mkldnn.flags, which warns of TF32 on every call.
        args, kwargs = tree_map(_to(torch.float16), (args, kwargs))
        enabled = torch._C._get_mkldnn_enabled()
        torch._C._set_mkldnn_enabled(False)
        try:
            return inner(*args, **kwargs)
        finally:
            torch._C._set_mkldnn_enabled(enabled)

    module.forward = forward


def _leaving(inside: str, outside: str) -> torch.dtype | None:
    """Return the format that outputs are brought to; None leaves them."""
    if outside in ("fp16", "bf16"):
        return torch.float32 if inside == "fp64" else None
    return DTYPES.get(outside, torch.float32)


def _to(dtype: torch.dtype) -> Callable[[Any], Any]:
    return lambda value: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _device_type(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    return next((v.device.type for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), "cpu")
