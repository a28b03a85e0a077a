"""TF32 as one setting over matmul, cuDNN convolutions and cuDNN RNNs."""

from __future__ import annotations

from typing import Any

import torch

_CUDNN: Any = torch.backends.cudnn  # its `conv` and `rnn` are missing from torch's type stubs


def set_tf32(enabled: bool) -> None:
    """Turn TF32 on or off everywhere at once.

    The legacy setters go first: they keep torch's legacy getters readable (setting only the newer `fp32_precision`
    makes `get_float32_matmul_precision()` raise). Turned off, they leave conv and rnn at `none`, which inherits, so
    both are then pinned to `ieee`.
    """
    torch.set_float32_matmul_precision("high" if enabled else "highest")
    torch.backends.cudnn.allow_tf32 = enabled
    if not enabled:
        for backend in (_CUDNN.conv, _CUDNN.rnn):
            backend.fp32_precision = "ieee"


def tf32_state() -> dict[str, str]:
    """Return the setting in force for each of the three places."""
    return {
        "matmul": torch.backends.cuda.matmul.fp32_precision,
        "cudnn_conv": _CUDNN.conv.fp32_precision,
        "cudnn_rnn": _CUDNN.rnn.fp32_precision,
    }
