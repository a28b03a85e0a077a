"""What a device runs natively, slowly, or not at all, and why; and what `auto` therefore picks.

Owns: the one table of hardware rules. Must not: build policies or fall back quietly. Probes the hardware itself and
never `is_bf16_supported()`, which is true on a T4 by emulation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from mptrain.errors import CapabilityError
from mptrain.precision.modes import MODES, get_mode

Level = Literal["native", "slow", "no"]


@dataclass(frozen=True)
class Support:
    """How well a device runs a mode."""

    level: Level
    reason: str


def support(mode: str, device: torch.device) -> Support:
    """Say how `device` runs `mode` (any mode but auto)."""
    if mode not in MODES:
        return Support("no", f"no hardware computes {mode}")
    arithmetic = mode if get_mode(mode).gemm else get_mode(mode).computed
    if device.type == "cuda":
        return _cuda_support(arithmetic, torch.cuda.get_device_capability(device))
    return _cpu_support(arithmetic)


def resolve_auto(device: torch.device) -> tuple[str, str]:
    """Return the mode that `auto` means on `device` and the reason for it."""
    if device.type == "cuda":
        for mode in ("bf16", "fp16"):
            found = support(mode, device)
            if found.level == "native":
                return mode, found.reason
        return "fp32", "no tensor cores for BF16 or FP16"
    return "fp32", "low precision on a CPU is for study, ask for it by name"


def require(mode: str, device: torch.device) -> Support:
    """Return the support of `mode` on `device`; raise CapabilityError with the alternatives where there is none."""
    found = support(mode, device)
    if found.level == "no":
        raise CapabilityError(
            f"precision.mode: {device} cannot run {mode} ({found.reason}); nearest modes that it runs: "
            f"{', '.join(_nearest(mode, device))}; precision=auto picks {resolve_auto(device)[0]}, and "
            f"precision.backend=emulated studies {mode} here, slowly"
        )
    return found


def _nearest(mode: str, device: torch.device) -> list[str]:
    """Return up to three modes that `device` runs, nearest in precision first."""
    storage = mode.partition("-")[2]
    ladder = [name for name in MODES if name.partition("-")[2] in ("", storage)]
    at = ladder.index(mode) if mode in ladder else len(ladder)
    usable = [name for name in ladder if support(name, device).level != "no"]
    return sorted(usable, key=lambda name: abs(ladder.index(name) - at))[:3]


def _cuda_support(arithmetic: str, capability: tuple[int, int]) -> Support:
    major, minor = capability
    has = f"capability {major}.{minor}"
    if get_mode(arithmetic).gemm:
        from mptrain.precision import float8

        return Support(*float8.support(arithmetic, capability))
    if arithmetic == "fp64":
        full_rate = capability in {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}
        return (
            Support("native", f"{has}: data-centre rate") if full_rate else Support("slow", f"{has}: reduced FP64 rate")
        )
    if arithmetic == "fp16":
        if major >= 7:
            return Support("native", f"{has}: tensor cores")
        return Support("slow", f"{has}: no tensor cores, FP16 brings no speed")
    if arithmetic in ("bf16", "tf32"):
        if major >= 8:
            return Support("native", f"{has}: tensor cores")
        return Support("no", f"needs capability 8.0 or newer, this device has {major}.{minor}")
    return Support("native", has)


def _cpu_support(arithmetic: str) -> Support:
    if get_mode(arithmetic).gemm:
        from mptrain.precision.float8 import NEEDS

        return Support("no", f"needs {NEEDS[arithmetic]}, this is a CPU")
    if arithmetic == "tf32":
        return Support("no", "TF32 exists on NVIDIA tensor cores only, capability 8.0 or newer; this is a CPU")
    if arithmetic == "bf16":
        if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
            return Support("native", "AVX512_BF16 or AMX instructions")
        return Support("slow", "no AVX512_BF16 or AMX instructions: PyTorch converts around every product")
    if arithmetic == "fp16":
        return Support("slow", "linear layers run well, convolution backward about 60 times slower than FP32")
    return Support("native", "CPU")
