"""The precision modes: what each stores, computes, accumulates and scales, in the one table that code and docs share.

Torch-free, so that `mptrain ls` answers at once. Must not: know devices (`capability.py`) or models (`plan.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from mptrain.config.precision import FREE_FORMAT, GemmFormatsConfig

Scaling = Literal["none", "tensor", "row", "block"]


@dataclass(frozen=True)
class GemmFormats:
    """Formats of the operands of one layer's three products, and how they are scaled into them."""

    input: str
    weight: str
    grad_output_for_input: str
    """The output's gradient in grad_input = grad_output @ weight."""
    grad_output_for_weight: str
    """The output's gradient in grad_weight = grad_output.T @ input."""
    scaling: Scaling = "tensor"
    block_size: int = 32
    scale_format: Literal["fp32", "pow2", "e8m0", "e4m3"] = "fp32"
    """pow2: a power of two, under which nothing saturates; e8m0: MX's power of two, under which the largest may; e4m3:
    per block, under one FP32 scale per tensor (NVFP4)."""
    high_precision_grad_weight: bool = False
    """The weight gradient's product takes its operands unrounded, the input gradient's the weight under one scale."""


@dataclass(frozen=True)
class Mode:
    """One precision mode."""

    name: str
    description: str
    stored: str = "fp32"
    """Format of weights and gradients; norms are stored in FP32 in every mode but fp64."""
    computed: str = "fp32"
    """Format of activations, and of products that `gemm` does not cover."""
    accumulated: str = "fp32"
    """Format in which products are summed."""
    master: bool = False
    """The optimizer works on an FP32 master copy of weights stored lower."""
    pure: bool = False
    """Weights and optimizer state are stored low and nothing else is."""
    loss_scale: Literal["none", "dynamic"] = "none"
    """What loss_scale `auto` means."""
    gemm: GemmFormats | None = None
    """Operand formats below `computed`."""

    @property
    def autocast(self) -> bool:
        """Whether activations are computed below the format that norms are stored in."""
        return self.computed in ("fp16", "bf16")


def _fp8(forward: str, backward: str, scaling: Scaling) -> GemmFormats:
    return GemmFormats(forward, forward, backward, backward, scaling)


_ROWWISE = replace(_fp8("e4m3", "e4m3", "row"), scale_format="pow2")


FP8_RECIPES: Mapping[str, GemmFormats] = {
    "tensorwise": _fp8("e4m3", "e5m2", "tensor"),
    "rowwise": _ROWWISE,
    "rowwise_with_gw_hp": replace(_ROWWISE, high_precision_grad_weight=True),
}
"""What torchao's recipes of the same names round to (torchao/float8/config.py)."""

_MX = GemmFormats("e4m3", "e4m3", "e4m3", "e4m3", "block", 32, "pow2")
_NVFP4 = GemmFormats("e2m1", "e2m1", "e2m1", "e2m1", "block", 16, "e4m3")


def _half(name: str, words: str, scaling: Literal["none", "dynamic"]) -> list[Mode]:
    low = name.upper()
    return [
        Mode(name, f"autocast to {low} over FP32 weights, {words}", computed=name, loss_scale=scaling),
        Mode(
            f"{name}-master",
            f"{low} weights and gradients, FP32 master weights in the optimizer, {words}",
            stored=name,
            computed=name,
            master=True,
            loss_scale=scaling,
        ),
        Mode(
            f"{name}-pure",
            f"{low} weights and optimizer state; rounding nearest, stochastic or kahan; {words}",
            stored=name,
            computed=name,
            pure=True,
            loss_scale=scaling,
        ),
    ]


MODES: Mapping[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode(
            "fp64",
            "weights and arithmetic in FP64: the reference, slow on most GPUs",
            stored="fp64",
            computed="fp64",
            accumulated="fp64",
        ),
        Mode("fp32", "weights and arithmetic in FP32, TF32 off"),
        Mode(
            "tf32",
            "FP32 storage, matrix products and convolutions in TF32 (NVIDIA capability >= 8.0)",
            computed="tf32",
        ),
        *_half("fp16", "with dynamic loss scaling", "dynamic"),
        *_half("bf16", "no loss scaling needed", "none"),
        Mode(
            "fp8",
            "BF16 autocast, linear layers in FP8 (precision.fp8.recipe; capability >= 8.9 and mptrain[fp8])",
            computed="bf16",
            gemm=FP8_RECIPES["tensorwise"],
        ),
        Mode(
            "mxfp8",
            "BF16 autocast, linear layers in MXFP8: E4M3, blocks of 32 (capability >= 10.0 and mptrain[fp8])",
            computed="bf16",
            gemm=_MX,
        ),
        Mode(
            "nvfp4",
            "BF16 autocast, linear layers in NVFP4: E2M1, blocks of 16 (capability 10.x and mptrain[fp8])",
            computed="bf16",
            gemm=_NVFP4,
        ),
    )
}
AUTO = "the best that this device runs natively: bf16 (capability >= 8.0), fp16 (7.x), else fp32"


def get_mode(name: str) -> Mode:
    """Return the mode called `name`; eXmY is FP32 with products' operands rounded to that format."""
    if name in MODES:
        return MODES[name]
    assert FREE_FORMAT.fullmatch(name), name
    return Mode(name, f"FP32, operands of products rounded to {name}", gemm=_fp8(name, name, "tensor"))


def with_formats(mode: Mode, config: GemmFormatsConfig, recipe: str) -> Mode:
    """Return `mode` with the FP8 recipe and the products' formats that a config chooses."""
    gemm = FP8_RECIPES[recipe] if mode.name == "fp8" else mode.gemm
    if config == GemmFormatsConfig():
        return replace(mode, gemm=gemm)
    base = gemm or _fp8(mode.computed, mode.computed, "none")
    forward = config.forward or base.input
    scaling = config.scaling or ("block" if config.block_size else base.scaling)
    return replace(
        mode,
        gemm=replace(
            base,
            input=forward,
            weight=forward,
            grad_output_for_input=config.grad_input or base.grad_output_for_input,
            grad_output_for_weight=config.grad_weight or base.grad_output_for_weight,
            scaling=scaling,
            block_size=config.block_size or base.block_size,
            scale_format="e8m0" if scaling == "block" and base.scale_format == "fp32" else base.scale_format,
        ),
    )
