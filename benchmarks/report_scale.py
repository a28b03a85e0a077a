"""How long `mptrain report` takes on 200 runs of 10,000 windows and 1,000 events each, and how much memory.

    python -m benchmarks.report_scale [--runs 200] [--windows 10000] [--events 1000] [--repeats 5]

The folders are generated: records as a run writes them, with a histogram of the gradients in each window. Each
measurement is a whole process, start included.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

MODES = ("fp32", "bf16", "fp16", "bf16-pure")
CONFIG = """\
name: generated
seed: {seed}
device: auto
model: {{name: mlp, hidden: [256, 128], dropout: 0.1}}
data: {{name: fashion_mnist_12k, batch_size: 128}}
task: {{name: classification}}
optimizer: {{name: adamw, lr: 0.001, weight_decay: 0.01}}
schedule: {{name: cosine, warmup_steps: 50}}
train: {{epochs: null, max_steps: {steps}}}
precision: {{mode: {mode}, backend: auto, rounding: nearest, loss_scale: {{kind: auto, init_scale: 65536.0}}}}
log: {{every: 50}}
"""
HISTOGRAM = {"first_exponent": -24, "counts": [12_345] * 40, "zeros": 678}


def write_run(folder: Path, mode: str, seed: int, windows: int, events: int) -> None:
    """Write one run's folder."""
    draw = random.Random(seed)
    folder.mkdir(parents=True)
    steps = 50 * windows
    (folder / "config.yaml").write_text(CONFIG.format(seed=seed, mode=mode, steps=steps))
    with (folder / "metrics.jsonl").open("w") as file:
        for window in range(1, windows + 1):
            file.write(json.dumps(_window(window, draw)) + "\n")
            if window % (windows // 100 or 1) == 0:
                file.write(json.dumps(_evaluation(50 * window, draw)) + "\n")
    with (folder / "events.jsonl").open("w") as file:
        for number in range(1, events + 1):
            file.write(json.dumps(_event(number * steps // events)) + "\n")
    in_force = _in_force(mode)
    (folder / "plan.json").write_text(json.dumps(in_force))
    (folder / "result.json").write_text(json.dumps(_result(in_force, steps, draw)))


def _window(window: int, draw: random.Random) -> dict[str, object]:
    numerics = {"attempted_step": 50 * window, "format": "fp16", "loss_scale": 65536.0, "grad_norm": draw.random()}
    numerics |= {"amax": 0.12, "headroom": 3.2, "zero_share": 0.1, "below_normal_share": 0.2}
    numerics |= {"below_subnormal_share": 0.01, "lost_update_share": None, "underflow_share": None}
    record: dict[str, object] = {"type": "train", "time": "2026-01-01T00:00:00.000+00:00"}
    record |= {"attempted_steps": 50 * window, "applied_steps": 50 * window, "skipped_steps": 0}
    record |= {"last_skipped_step": None, "steps_done": 50 * window, "epoch": 0, "epoch_step": 50 * window}
    record |= {"loss": 2 / window + draw.random(), "lr": 1e-3, "grad_norm": draw.random(), "loss_scale": 65536.0}
    record |= {"samples_per_s": 1000 * draw.random(), "step_time_ms": 12.3, "data_wait_fraction": 0.01}
    return record | {
        "peak_memory_bytes": 796_844_032,
        "wall_s": 0.6 * window,
        "numerics": numerics | {"histogram": HISTOGRAM},
    }


def _evaluation(step: int, draw: random.Random) -> dict[str, object]:
    metrics = {"loss": draw.random(), "accuracy": 0.9 + 0.01 * draw.random(), "samples": 2000}
    record = {"type": "eval", "time": "2026-01-01T00:00:00.000+00:00", "applied_steps": step, "epoch": 0}
    return record | {"metrics": metrics, "main_metric": "accuracy", "improved": True, "seconds": 0.1}


def _event(step: int) -> dict[str, object]:
    data = {"loss": 1.0, "loss_scale": 65536.0, "first": "1.weight", "parameters": ["1.weight"]}
    record = {"time": "2026-01-01T00:00:00.000+00:00", "kind": "overflow", "attempted_step": step}
    return record | {"applied_steps": step, "message": "skipped, gradients are not finite", "data": data}


def _in_force(mode: str) -> dict[str, object]:
    dtypes = ("param_dtype", "compute_dtype", "grad_dtype", "optimizer_dtype", "loss_dtype", "reduce_dtype")
    tf32 = {"matmul": "ieee"}
    rest = {"autocast": False, "master_weights": False, "rounding": None, "formats": None, "overrides": 0}
    facts = {"requested": mode, "mode": mode, "reason": "asked for", "backend": "native", "loss_scale": "none"}
    return {**facts, **rest, **dict.fromkeys(dtypes, "fp32"), "tf32": tf32, "device": "cpu"}


def _result(in_force: dict[str, object], steps: int, draw: random.Random) -> dict[str, object]:
    accuracy = 0.9 + 0.01 * draw.random()
    return {
        "schema": 1,
        "status": "ok",
        "exit_code": 0,
        "error": None,
        "precision": in_force,
        "device": "cpu (x86_64, 2 threads)",
        "main_metric": {"name": "accuracy", "higher_is_better": True},
        "metrics": {"accuracy": accuracy, "loss": 0.3},
        "applied_steps": steps,
        "attempted_steps": steps,
        "skipped_steps": 0,
        "final_loss_scale": None,
        "train_loss": 0.1,
        "samples_per_s": 1000 * (1 + draw.random()),
        "step_time_ms": {"median": 1.0, "p90": 1.1},
        "peak_memory_bytes": 796_844_032,
        "data_wait_fraction": 0.01,
        "wall_s": 0.6 * steps / 50,
    }


class Measured(NamedTuple):
    """One `mptrain report`."""

    seconds: float
    cpu_seconds: float
    """Of all its processes: what the time comes to where others use the cores too."""
    largest_mib: float
    """Peak of its largest process."""
    together_mib: float
    """Peak of all its processes, shared pages counted in each."""


WATCH = """\
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
sys.exit(code)
"""


def measure(folder: Path) -> Measured:
    """Run one `mptrain report` in a process of its own."""
    command = [sys.executable, "-c", WATCH, sys.executable, "-m", "mptrain", "report", str(folder), "--json"]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    together = 0.0
    while process.poll() is None:
        together = max(together, _resident(process.pid))
        time.sleep(0.02)
    seconds = time.perf_counter() - began
    if process.returncode or process.stdout is None:
        raise SystemExit("mptrain report failed")
    cpu_seconds, largest = process.stdout.read().split()
    return Measured(seconds, float(cpu_seconds), int(largest) / 1024, together)


def _resident(pid: int) -> float:
    """Return the resident MiB of a process and all below it, shared pages counted in each; 0 once it is gone."""
    total, waiting = 0.0, [pid]
    while waiting:
        each = waiting.pop()
        try:
            pages = int(Path(f"/proc/{each}/statm").read_text().split()[1])
            waiting += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
        except OSError:
            continue
        total += pages * resource.getpagesize() / 2**20
    return total


def main() -> None:
    """Generate the runs, measure, and print one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("runs", 200), ("windows", 10_000), ("events", 1_000), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.runs):
            mode = MODES[number % len(MODES)]
            path = Path(folder, f"{mode}-{number}")
            write_run(path, mode, number // len(MODES), options.windows, options.events)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.json*"))
        found = [measure(Path(folder)) for _ in range(options.repeats)]
    seconds = [each.seconds for each in found]
    print(
        f"{options.runs} runs, {options.windows} windows each, {size / 2**20:.0f} MiB: n {len(found)}, "
        f"median {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), "
        f"{statistics.median(each.cpu_seconds for each in found):.2f} s of CPU, peak "
        f"{max(each.largest_mib for each in found):.0f} MiB in one process, "
        f"{max(each.together_mib for each in found):.0f} together"
    )


if __name__ == "__main__":
    main()
