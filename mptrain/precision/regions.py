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
    dtype = DTYPES[inside]
    low = inside in ("fp16", "bf16")
    leaving = None if outside in ("fp16", "bf16") and inside != "fp64" else DTYPES.get(outside, torch.float32)
    if inside == "fp64" and outside in ("fp16", "bf16"):
        leaving = torch.float32

    def forward(*args: Any, **kwargs: Any) -> Any:
        device_type = _device_type(args, kwargs)
        with torch.autocast(device_type, dtype=dtype if low else None, enabled=low, cache_enabled=False):
            if not low:
                args, kwargs = tree_map(_to(dtype), (args, kwargs))
            outputs = inner(*args, **kwargs)
        return outputs if leaving is None else tree_map(_to(leaving), outputs)

    module.forward = forward


def _to(dtype: torch.dtype) -> Callable[[Any], Any]:
    return lambda value: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _device_type(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    return next((v.device.type for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), "cpu")
