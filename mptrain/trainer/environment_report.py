"""What this machine is: devices, what they run natively, versions. For env.json and `mptrain env`."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import torch

from mptrain import __version__
from mptrain.precision.capability import resolve_auto, support
from mptrain.precision.modes import MODES

_PACKAGES = ("torchvision", "numpy", "pydantic", "typer", "rich", "safetensors", "torchao")


def versions() -> dict[str, str | None]:
    """Return the versions of mptrain, Python and the libraries that matter; None where one is not installed."""
    found: dict[str, str | None] = {"mptrain": __version__, "python": platform.python_version()}
    found["torch"] = str(torch.__version__)  # with its build, e.g. +cu130, which the package's metadata lacks
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def devices() -> list[dict[str, Any]]:
    """Return every device with its support of each precision and what `auto` picks there."""
    found = [torch.device("cpu")]
    found += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [_describe(device) for device in found]


def environment_report(command: list[str], plugins: Sequence[str] = ()) -> dict[str, Any]:
    """Return what env.json records; `plugins` are modules that have been imported: a user's own code."""
    return {
        "command": command,
        "plugins": {name: getattr(sys.modules.get(name), "__file__", None) for name in plugins},
        "versions": versions(),
        "platform": platform.platform(),
        "python": sys.executable,
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "devices": devices(),
    }


def _describe(device: torch.device) -> dict[str, Any]:
    mode, reason = resolve_auto(device)
    report: dict[str, Any] = {"device": str(device), "name": _cpu_name()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        report["name"] = properties.name
        report["capability"] = f"{properties.major}.{properties.minor}"
        report["memory_bytes"] = properties.total_memory
    report["auto"] = {"mode": mode, "reason": reason}
    report["precisions"] = {
        mode: {"support": found.level, "reason": found.reason} for mode in MODES for found in (support(mode, device),)
    }
    return report


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
