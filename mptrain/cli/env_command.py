"""`mptrain env`: devices, which precisions each runs natively, versions. Torch is imported inside the function."""

from __future__ import annotations

import json
import sys
from typing import Any

from mptrain.cli.run_commands import AsJson
from mptrain.errors import CapabilityError


def env(as_json: AsJson = False) -> None:
    """Show devices, the precisions they run, and versions."""
    from mptrain.trainer.environment_report import environment_report

    report = environment_report(sys.argv) | {"torchvision_problem": _torchvision_problem()}
    if as_json:
        print(json.dumps(report))
        return
    for device in report["devices"]:
        _print_device(device)
    print("versions")
    for name, version in report["versions"].items():
        print(f"  {name:<12} {version or 'not installed'}")
    if report["torchvision_problem"]:
        print(f"  PROBLEM      {report['torchvision_problem']}")
    print(f"  {'cuda':<12} {report['cuda'] or 'not in this build of torch'}")
    print(f"platform {report['platform']}, {report['cpu_count']} CPUs, {report['torch_threads']} torch threads")


def _torchvision_problem() -> str | None:
    from mptrain.torchvision_import import import_torchvision

    try:
        import_torchvision()
    except CapabilityError as error:
        return str(error)
    return None


def _print_device(device: dict[str, Any]) -> None:
    details = [device["name"]]
    if "capability" in device:
        details.append(f"capability {device['capability']}")
        details.append(f"{device['memory_bytes'] / 2**30:.0f} GiB")
    print(f"{device['device']}  {', '.join(details)}")
    for mode, found in device["precisions"].items():
        print(f"  {mode:<12} {found['support']:<7} {found['reason']}")
    print(f"  {'auto':<12} {device['auto']['mode']:<7} {device['auto']['reason']}")
