"""Which precisions a bench compares, and the config of each.

Owns: what `--precisions` means. Must not: build or measure anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError

from mptrain.config.precision import GemmFormatsConfig, PrecisionConfig
from mptrain.config.schema import DebugConfig, RunConfig
from mptrain.errors import ConfigError
from mptrain.precision.capability import resolve_auto, support
from mptrain.precision.modes import MODES, get_mode

BASELINE = "fp32"


@dataclass(frozen=True)
class Contestant:
    """One row of a bench."""

    mode: str
    config: RunConfig
    emulated: bool
    level: str
    """How the device runs the mode natively: native, slow, no."""
    reason: str
    """Why that is its level."""

    @property
    def name(self) -> str:
        """Return what the row is called."""
        return f"{self.mode} (emulated)" if self.emulated else self.mode


@dataclass(frozen=True)
class LeftOut:
    """A mode that was not asked for by name and would not be worth its time."""

    mode: str
    reason: str


def choose(config: RunConfig, device: torch.device, precisions: str | None) -> tuple[list[Contestant], list[LeftOut]]:
    """Return the rows, FP32 first, and the modes left out; raise ConfigError for names that are none.

    `precisions`: names with commas; `all`, where those that the device cannot run are emulated; None: what the device
    runs natively, but FP64.
    """
    if precisions is None:
        levels = {mode: support(mode, device) for mode in MODES}
        chosen = [mode for mode, found in levels.items() if found.level == "native" and mode != "fp64"]
        left_out = [LeftOut(mode, found.reason) for mode, found in levels.items() if found.level == "slow"]
    else:
        chosen, left_out = list(MODES) if precisions == "all" else _named(precisions, device), []
    ordered = [BASELINE, *(mode for mode in dict.fromkeys(chosen) if mode != BASELINE)]
    return [_contestant(config, mode, device, emulate=precisions == "all") for mode in ordered], left_out


def _named(precisions: str, device: torch.device) -> list[str]:
    modes, problems = [], []
    for name in (part.strip() for part in precisions.split(",")):
        try:
            mode = PrecisionConfig(mode=name).mode
        except ValidationError as error:
            problems += [f"--precisions: {found['msg'].removeprefix('Value error, ')}" for found in error.errors()]
            continue
        modes.append(resolve_auto(device)[0] if mode == "auto" else mode)
    if problems:
        raise ConfigError(problems)
    return modes


def _contestant(config: RunConfig, mode: str, device: torch.device, *, emulate: bool) -> Contestant:
    found = support(mode, device)
    emulated = config.precision.backend == "emulated" or (emulate and found.level == "no")
    changes: dict[str, Any] = {
        "mode": mode,
        "phases": (),
        "backend": "emulated" if emulated else config.precision.backend,
        "rounding": config.precision.rounding if get_mode(mode).pure else "nearest",
    }
    if mode == BASELINE:  # what it is compared with is FP32 in every layer
        changes |= {"overrides": (), "formats": GemmFormatsConfig()}
    in_mode = {"precision": config.precision.model_copy(update=changes), "debug": DebugConfig()}
    return Contestant(mode, config.model_copy(update=in_mode), emulated, found.level, found.reason)


def lacking(contestant: Contestant, device: torch.device) -> str | None:
    """Return what the device lacks for fast arithmetic in a mode; None where it lacks nothing."""
    if contestant.level != "slow":
        return None
    if device.type == "cpu" and get_mode(contestant.mode).computed == "fp16":
        # `capability` speaks of layers; what matters here is the instructions of AVX512_FP16 or AMX.
        known = torch.cpu.get_capabilities()
        has = known.get("avx512_fp16") or known.get("amx_fp16")
        return None if has else "no AVX512_FP16 or AMX_FP16 instructions"
    return contestant.reason
