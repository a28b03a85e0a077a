"""Interleaved rounds: every contestant in turn, each time in a fresh process, so that a slow minute hits all alike.

Owns: starting workers, skipping the absent, keeping failures as reasons, and the numbers that the tables share.
Must not: import torch or a contestant.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contestants import CONTESTANTS, Contestant

ROOT = Path(__file__).parent.parent
LIMIT_S = 600


def choose(names: str | None) -> list[Contestant]:
    """Return the named contestants (comma-separated; all if None), their baselines and the floor; exit on others."""
    asked = list(CONTESTANTS) if names is None else [name.strip() for name in names.split(",")]
    unknown = [name for name in asked if name not in CONTESTANTS]
    if unknown:
        sys.exit(f"error: unknown contestant {', '.join(unknown)}; known: {', '.join(CONTESTANTS)}")
    wanted = {"plain", *asked, *(CONTESTANTS[name].baseline for name in asked)}
    return [contestant for name, contestant in CONTESTANTS.items() if name in wanted]


def absent(contestant: Contestant) -> str | None:
    """Return why this contestant cannot take part here (its package is not installed), or None."""
    if contestant.needs is None:
        return None
    try:
        importlib.metadata.version(contestant.needs)
    except importlib.metadata.PackageNotFoundError:
        return f"not installed: {contestant.needs} (see benchmarks/requirements-peers.txt)"
    return None


def run_worker(name: str, options: Sequence[str]) -> dict[str, Any] | str:
    """Run one contestant once; return its result with `cold_start_s` added, or the last line of its error."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.worker", name, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if done.returncode:
        return (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    result["cold_start_s"] = result.pop("first_step_done") - started
    return result


def run_rounds(
    contestants: Sequence[Contestant], rounds: int, options: Sequence[str]
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Run `rounds` interleaved rounds, each starting one contestant further; return results and reasons of absence.

    Exits where the floor itself fails: without it no figure means anything.
    """
    out = {c.name: reason for c in contestants if (reason := absent(c))}
    results: dict[str, list[dict[str, Any]]] = {c.name: [] for c in contestants if c.name not in out}
    for number in range(rounds):
        names = [name for name in results if name not in out]
        shift = number % len(names) if names else 0
        for name in names[shift:] + names[:shift]:
            result = run_worker(name, options)
            if isinstance(result, str):
                out[name] = result
            else:
                results[name].append(result)
            print(f"round {number + 1}/{rounds}  {name:<15} {_brief(result)}", file=sys.stderr, flush=True)
    if "plain" in out:
        sys.exit(f"error: the plain loop failed: {out['plain']}")
    return {name: found for name, found in results.items() if name not in out}, out


def _brief(result: dict[str, Any] | str) -> str:
    if isinstance(result, str):
        return result
    return f"{result['wall_us']:7.0f} us/step  first step after {result['cold_start_s']:.2f} s"


def spread(values: Sequence[float], form: str) -> str:
    """Format `median (min..max)`, e.g. with form `.2f`."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}..{max(values):{form}})"


def machine() -> dict[str, Any]:
    """Return CPU model, cores, Python and the versions of torch and of the peers that are installed."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    versions = {}
    for package in ("torch", "mptrain", *sorted({c.needs for c in CONTESTANTS.values() if c.needs})):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(), "versions": versions}


def print_machine(found: dict[str, Any], threads: int) -> None:
    """Print the machine as one line of markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    print(f"{found['cpu']}, {found['cores']} cores, {threads} thread(s); Python {found['python']}; {versions}.\n")
