"""How long until the first step is done: `python -m benchmarks.coldstart [--rounds 5] [--json FILE]`.

Owns: the start-up tables. Must not: know how any contestant trains.

Method: the parent notes the time, starts a process, and the clock inside the model notes the time at which the
second training step begins, on the same system-wide clock: interpreter, imports, data, model, optimizer and one whole
step. Commands that train nothing are timed from start to exit. The first round warms the file cache and is dropped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.contestants import CONTESTANTS
from benchmarks.rounds import ROOT, choose, machine, print_machine, run_rounds, spread

COMMANDS: dict[str, list[str]] = {
    'python -c "pass"': ["-c", "pass"],
    'python -c "import typer, rich"': ["-c", "import typer, rich"],
    "mptrain --help": ["-m", "mptrain", "--help"],
    "mptrain check configs/resnet.yaml": ["-m", "mptrain", "check", "configs/resnet.yaml"],
    'python -c "import torch"': ["-c", "import torch"],
}


def main() -> None:
    """Run both measurements and print a markdown table of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contestants", help=f"comma-separated, of: {', '.join(CONTESTANTS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write every single measurement here")
    asked = parser.parse_args()

    found = machine()
    print_machine(found, asked.threads)
    options = ["--skip", "2", "--steps", "2", "--threads", str(asked.threads)]
    results, out = run_rounds(choose(asked.contestants), asked.rounds + 1, options)
    results = {name: runs[1:] for name, runs in results.items()}
    print_first_steps(results)
    commands = time_commands(asked.rounds + 1, out)
    print("\n| command | ms to exit: median (min..max) | n |\n|---|---|---|")
    for command, times in commands.items():
        print(f"| `{command}` | {spread(times, '.0f')} | {len(times)} |")
    for name, reason in out.items():
        print(f"\nNo figure for {name}: {reason}")
    if asked.json is not None:
        record: dict[str, Any] = {"machine": found, "first_steps": results, "absent": out, "commands_ms": commands}
        asked.json.write_text(json.dumps(record, indent=1))


def print_first_steps(results: dict[str, list[dict[str, Any]]]) -> None:
    """Print seconds to the end of the first step, and how many more than the plain loop took in the same round."""
    print("| contestant | wall s to the end of the first step | more than plain | CPU s | more than plain | n |")
    print("|---|---|---|---|---|---|")
    columns = {}
    for name, runs in results.items():
        figures = []
        for key in ("cold_start_s", "first_step_cpu_s"):
            figures.append([run[key] for run in runs])
            figures.append([run[key] - plain[key] for run, plain in zip(runs, results["plain"], strict=True)])
        columns[name] = figures
    for name, (wall, wall_more, cpu, cpu_more) in sorted(columns.items(), key=lambda row: statistics.median(row[1][0])):
        walls = f"{spread(wall, '.2f')} | {spread(wall_more, '+.2f')}"
        print(f"| {name} | {walls} | {spread(cpu, '.2f')} | {spread(cpu_more, '+.2f')} | {len(wall)} |")


def time_commands(rounds: int, out: dict[str, str]) -> dict[str, list[float]]:
    """Return milliseconds to exit of every command, interleaved, the first round dropped; failures go to `out`."""
    times: dict[str, list[float]] = {command: [] for command in COMMANDS}
    for _ in range(rounds):
        for command in [command for command in COMMANDS if command not in out]:
            started = time.monotonic()
            done = subprocess.run([sys.executable, *COMMANDS[command]], cwd=ROOT, capture_output=True, check=False)
            times[command].append((time.monotonic() - started) * 1e3)
            if done.returncode:
                out[command] = f"exit code {done.returncode}"
    return {command: taken[1:] for command, taken in times.items() if command not in out}


if __name__ == "__main__":
    main()
