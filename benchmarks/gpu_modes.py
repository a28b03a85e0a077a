"""Every precision mode on a GPU, eager and compiled: `python -m benchmarks.gpu_modes [--model vit_b_16] [--rounds 3]`.

Owns: the GPU table. Must not: measure anything itself; every figure is what `mptrain run --json` reports.

Method: 224 px, 1000 classes, batch 256, channels_last, SGD with momentum, synthetic data kept on the device. Every cell
runs in its own process, interleaved; the speed is mptrain's own, which leaves out warm-up, compilation and evaluation.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.rounds import ROOT, spread
from mptrain.precision.modes import MODES

VARIANTS = {
    **{mode: [f"precision={mode}"] for mode in MODES if not mode.endswith("-pure") and mode != "fp8"},
    **{
        f"{mode} {rounding}": [f"precision={mode}", f"precision.rounding={rounding}"]
        for mode in ("fp16-pure", "bf16-pure")
        for rounding in ("nearest", "stochastic", "kahan")
    },
    **{
        f"fp8 {recipe}": ["precision=fp8", f"precision.fp8.recipe={recipe}"]
        for recipe in ("tensorwise", "rowwise", "rowwise_with_gw_hp")
    },
}
"""What is run: a mode, with what it can choose between."""
LIMIT_S = 900
CONFIG = """
device: cuda
model: {name: MODEL, num_classes: 1000}
data: {name: synthetic, input_shape: [3, 224, 224], num_outputs: 1000, num_train: 2560, num_test: 256, batch_size: 256,
       cache: device}
task: classification
optimizer: {name: sgd, lr: 0.01, momentum: 0.9}
schedule: constant
train: {max_steps: 60, channels_last: true}
checkpoint: {enabled: false}
log: {every: 10}
"""
PROBE = """
import torch
if not torch.cuda.is_available(): raise SystemExit("error: no GPU that torch can use; this benchmark needs one")
print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")
"""


def main() -> None:
    """Run every cell `--rounds` times and print a markdown table; exit 1 with one line where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", choices=("resnet50", "vit_b_16"), default="resnet50")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="comma-separated")
    asked = parser.parse_args()

    # Asked in a process of its own: a CUDA context here would take memory from the runs.
    probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    if probe.returncode:
        sys.exit(probe.stderr.strip().splitlines()[-1])
    cells = [(name, compiled) for name in asked.variants.split(",") for compiled in (False, True)]
    results: dict[tuple[str, bool], list[dict[str, Any]]] = {cell: [] for cell in cells}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(asked.rounds):
            for cell in cells:
                results[cell].append(run_cell(Path(folder), asked.model, *cell))
                print(f"round {number + 1}/{asked.rounds}", *cell, results[cell][-1]["status"], file=sys.stderr)
    print(f"{probe.stdout.strip()}; {asked.model}, 224 px, batch 256, channels_last, synthetic data on the device\n")
    print("| precision | compile | samples/s: median (min..max) | peak memory, GiB | n |\n|---|---|---|---|---|")
    for (name, compiled), runs in results.items():
        print(f"| {name} | {'on' if compiled else 'off'} | {_figures(runs)} | {len(runs)} |")


def run_cell(folder: Path, model: str, variant: str, compiled: bool) -> dict[str, Any]:
    """Return the final JSON object of one run."""
    config = folder / "gpu.yaml"
    config.write_text(CONFIG.replace("MODEL", model))
    command = [sys.executable, "-m", "mptrain", "run", str(config), *VARIANTS[variant]]
    command += [f"train.compile={str(compiled).lower()}", "--output-dir", str(folder / "runs"), "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=LIMIT_S, check=False)
    if not done.stdout.strip():
        return {"status": f"exit code {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _figures(runs: list[dict[str, Any]]) -> str:
    """Format speed and memory of one cell, or the status of the first run that did not end well."""
    for run in runs:
        if run["status"] != "ok":
            return f"{run['status']} | n/a"
    speeds = [run["samples_per_s"] for run in runs]
    return f"{spread(speeds, '.0f')} | {max(run['peak_memory_bytes'] for run in runs) / 2**30:.1f}"


if __name__ == "__main__":
    main()
