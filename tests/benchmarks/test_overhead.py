"""The benchmark runs without any peer, and mptrain solves its problem as well as the plain loop does.

Owns: nothing but that. Must not: assert a time.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNTRAINED_LOSS = 2.3


def test_overhead_without_peers(tmp_path: Path) -> None:
    out = tmp_path / "overhead.json"
    names = ["plain", "plain-clip", "mptrain", "mptrain-clip"]
    command = [sys.executable, "-m", "benchmarks.overhead", "--contestants", ",".join(names), "--rounds", "1"]
    command += ["--skip", "5", "--steps", "300", "--precisions", "bf16", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"| {name} |" in done.stdout for name in names)

    measured = json.loads(out.read_text())["precisions"]["bf16"]
    assert measured["absent"] == {}
    losses = {name: measured["results"][name][0]["final_loss"] for name in names}
    assert {measured["results"][name][0]["compute_dtype"] for name in names} == {"bfloat16"}
    assert losses["plain"] < UNTRAINED_LOSS / 2
    assert abs(losses["mptrain"] - losses["plain"]) < 0.05
    assert abs(losses["mptrain-clip"] - losses["plain-clip"]) < 0.05


def test_unknown_contestant_is_one_line() -> None:
    command = [sys.executable, "-m", "benchmarks.overhead", "--contestants", "plane"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: unknown contestant plane; known: plain,")
