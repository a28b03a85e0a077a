"""What every task does with a model's outputs: check their shape, and raise their precision for the loss.

Owns: nothing but these two functions. Must not: know a loss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mptrain.errors import ConfigError


def check_outputs(outputs: Any, num_samples: int, num_outputs: int, *, exact: bool) -> None:
    """Raise ConfigError unless outputs are (num_samples, num_outputs), or wider where not `exact`; reads no values."""
    if isinstance(outputs, Tensor) and outputs.dim() == 2 and outputs.shape[0] == num_samples:
        width = outputs.shape[1]
        if width == num_outputs or (width > num_outputs and not exact):
            return
    found = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
    more = "" if exact else " or more"
    raise ConfigError(
        f"model: its output is {found}, the task needs ({num_samples}, {num_outputs}{more}); "
        "check model.num_classes and the model's last layer"
    )


def at_least_fp32(tensor: Tensor) -> Tensor:
    """Return the tensor in FP64 if it is FP64, else in FP32: a loss computed in half precision loses what matters."""
    return tensor if tensor.dtype is torch.float64 else tensor.float()
