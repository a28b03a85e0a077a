"""The precision modes a user can ask for, each in one line. Torch-free, so that `mptrain ls` answers at once."""

from __future__ import annotations

from collections.abc import Mapping

MODES: Mapping[str, str] = {
    "auto": "the lowest precision this device runs natively: bf16 (capability >= 8.0), fp16 (7.x), else fp32",
    "fp64": "weights and arithmetic in FP64: the reference, slow on most GPUs",
    "fp32": "weights and arithmetic in FP32, TF32 off",
    "tf32": "FP32 storage, matrix products and convolutions in TF32 (NVIDIA capability >= 8.0)",
    "fp16": "autocast to FP16 over FP32 weights, with dynamic loss scaling",
    "bf16": "autocast to BF16 over FP32 weights, no loss scaling needed",
}
