"""What a training step costs beside a hand-written loop: `python -m benchmarks.overhead [--rounds 5] [--json FILE]`.

Owns: the per-step table. Must not: know how any contestant trains.

Method: a 64-64-10 MLP, batch 32, 8,192 samples in memory, the same seed, initial weights and fused optimizer for all.
Each round runs every contestant in a fresh process; a clock inside the model takes the wall time from the beginning
of step `skip` + 1 to that of step `skip` + `steps` + 1 (epoch ends included, evaluation and start-up excluded).
A ratio compares a contestant with its baseline in the same round; the table gives medians with min and max. Beside
the wall ratio stands the ratio of the process's CPU times, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.contestants import CONTESTANTS
from benchmarks.rounds import choose, machine, print_machine, run_rounds, spread


def main() -> None:
    """Run the benchmark in each precision and print one markdown table for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contestants", help=f"comma-separated, of: {', '.join(CONTESTANTS)}")
    parser.add_argument("--precisions", default="fp32,bf16", help="comma-separated, of: fp32, bf16, fp16")
    parser.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--skip", type=int, default=200, help="steps before the clock starts")
    parser.add_argument("--steps", type=int, default=3000, help="steps timed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write every single measurement here")
    asked = parser.parse_args()

    contestants, found = choose(asked.contestants), machine()
    print_machine(found, asked.threads)
    record: dict[str, Any] = {"machine": found, "arguments": {**vars(asked), "json": str(asked.json)}, "precisions": {}}
    for precision in asked.precisions.split(","):
        options = ["--precision", precision, "--optimizer", asked.optimizer, "--threads", str(asked.threads)]
        options += ["--skip", str(asked.skip), "--steps", str(asked.steps)]
        results, out = run_rounds(contestants, asked.rounds, options)
        print(f"**{precision}**, {asked.optimizer}, {asked.steps} steps, {asked.rounds} rounds\n")
        print_table(results, out)
        record["precisions"][precision] = {"results": results, "absent": out}
    if asked.json is not None:
        asked.json.write_text(json.dumps(record, indent=1))


def print_table(results: dict[str, list[dict[str, Any]]], out: dict[str, str]) -> None:
    """Print results in the order of their ratio, and who is missing and why."""
    rows = []
    for name, runs in results.items():
        baseline = CONTESTANTS[name].baseline
        if baseline not in results:
            out[name] = f"its baseline {baseline} failed"
            continue
        pairs = list(zip(runs, results[baseline], strict=True))
        wall = [mine["wall_us"] / base["wall_us"] for mine, base in pairs]
        cpu = [mine["cpu_us"] / base["cpu_us"] for mine, base in pairs]
        us = [run["wall_us"] for run in runs]
        figures = f"{spread(us, '.0f')} | {spread(wall, '.2f')} | {spread(cpu, '.2f')} | {baseline}"
        first = runs[0]
        row = (
            f"| {name} | {CONTESTANTS[name].what} | {first['compute_dtype']} | {figures} | {first['final_loss']:.3f} |"
        )
        rows.append((baseline, statistics.median(wall), f"{row} {len(runs)} |"))
    print(
        "| contestant | what it does | computed in | us/step (range) | wall ratio | CPU ratio | to | final loss | n |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for *_, row in sorted(rows):
        print(row)
    busy = statistics.median(run["wall_us"] / run["cpu_us"] for run in results["plain"])
    print(f"\nThe floor's wall time was {busy:.2f} times its CPU time (above 1: other work took the core).")
    for name, reason in out.items():
        print(f"\nNo figure for {name}: {reason}")
    print(flush=True)


if __name__ == "__main__":
    main()
