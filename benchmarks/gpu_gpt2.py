"""GPT-2 on a GPU, mptrain beside a plain loop: `python -m benchmarks.gpu_gpt2 [--batch 16] [--rounds 3] [--steps 60]`.

Owns: the table of tokens per second and model FLOP/s utilisation. Must not: use another network than mptrain's own.

Method: gpt2-124m, windows of 1,024 tokens, BF16, AdamW (fused), gradient norm clipped to 1, random tokens in a mapped
file. mptrain and the loop, eager and compiled, take turns, each in its own process. mptrain's speed is its own, which
leaves out warm-up, compilation and evaluation; the loop is nanoGPT's (train.py: batches cut from the file by the main
process, pinned, copied without waiting), timed between two synchronisations after its first WARM_UP steps. FLOPs a
token: 6 N + 12 L C T (PaLM, Chowdhery et al. 2022, appendix B), N without position embeddings, as nanoGPT counts them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.rounds import ROOT, spread

MODEL, CONTEXT, VOCABULARY, PADDED = "gpt2-124m", 1024, 50257, 50304
WIDTH, DEPTH, PARAMETERS = 768, 12, 123_689_472
"""Of that model with the padded vocabulary: 50304 * 768, and 12 blocks and a norm with biases."""
FLOPS_PER_TOKEN = 6 * PARAMETERS + 12 * DEPTH * WIDTH * CONTEXT
PEAK: Mapping[str, float] = {"A100": 312e12, "H100 80GB HBM3": 989e12, "H200": 989e12}
"""Part of the name torch gives a GPU -> its dense BF16 peak, FLOP/s, by NVIDIA's data sheets; others get no MFU."""
WARM_UP = 15
LIMIT_S = 900
CONFIG = """
device: cuda
model: {name: MODEL, num_classes: PADDED}
data: {name: token_files, train: FILE, test: FILE.test, vocab_size: VOCABULARY, context: CONTEXT, batch_size: BATCH,
       num_workers: 2}
task: language_modelling
optimizer: {name: adamw, lr: 6e-4, beta2: 0.95, weight_decay: 0.1, decay_norm_and_bias: false}
schedule: constant
train: {max_steps: STEPS, clip_norm: 1.0}
precision: bf16
checkpoint: {enabled: false}
log: {every: 10}
"""
PROBE = """
import torch
if not torch.cuda.is_available(): raise SystemExit("error: no GPU that torch can use; this benchmark needs one")
print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
"""


def main() -> None:
    """Run every cell `--rounds` times and print a markdown table; exit 1 with one line where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16, help="windows a step")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--plain", metavar="FILE", help=argparse.SUPPRESS)  # one turn of the loop, in this process
    parser.add_argument("--compile", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.plain:
        print(json.dumps(plain_loop(Path(asked.plain), "cuda", asked.batch, asked.steps, compiled=asked.compile)))
        return

    # Asked in a process of its own: a CUDA context here would take memory from the runs.
    probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    if probe.returncode:
        sys.exit(probe.stderr.strip().splitlines()[-1])
    cells = [(name, compiled) for compiled in (False, True) for name in ("mptrain", "plain loop")]
    results: dict[tuple[str, bool], list[float | str]] = {cell: [] for cell in cells}
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens.bin"
        write_tokens(tokens)
        for number in range(asked.rounds):
            for name, compiled in cells:
                run = run_mptrain if name == "mptrain" else run_plain
                results[name, compiled].append(run(tokens, asked.batch, asked.steps, compiled))
                print(f"round {number + 1}/{asked.rounds}", name, results[name, compiled][-1], file=sys.stderr)
    device = probe.stdout.strip()
    print(f"{device}; {MODEL}, {asked.batch} x {CONTEXT} tokens a step, BF16, random tokens\n")
    print("| | compile | tokens/s: median (min..max) | MFU | n |\n|---|---|---|---|---|")
    for (name, compiled), found in results.items():
        print(f"| {name} | {'on' if compiled else 'off'} | {figures(found, device)} | {len(found)} |")


def figures(found: list[float | str], device: str) -> str:
    """Format the speeds of one cell and the MFU of their median, or the first turn's reason for having none."""
    speeds = [speed for speed in found if isinstance(speed, float)]
    if len(speeds) < len(found):
        return f"{next(reason for reason in found if isinstance(reason, str))} | n/a"
    peak = next((peak for name, peak in PEAK.items() if name in device), None)
    middle = sorted(speeds)[len(speeds) // 2]
    return f"{spread(speeds, ',.0f')} | {f'{middle * FLOPS_PER_TOKEN / peak:.1%}' if peak else 'n/a'}"


def write_tokens(path: Path, count: int = 20_000_000) -> None:
    """Write random tokens as nanoGPT's prepare.py does, and a test file of a few windows beside them."""
    import numpy as np

    tokens = np.random.default_rng(0).integers(0, VOCABULARY, count).astype("<u2")
    tokens.tofile(path)
    tokens[: 4 * CONTEXT + 1].tofile(f"{path}.test")


def config_text(tokens: Path, batch: int, steps: int) -> str:
    """Return the config that mptrain runs."""
    values = {"MODEL": MODEL, "FILE": tokens, "PADDED": PADDED, "VOCABULARY": VOCABULARY, "CONTEXT": CONTEXT}
    text = CONFIG
    for name, value in {**values, "BATCH": batch, "STEPS": steps}.items():
        text = text.replace(name, str(value))
    return text


def run_mptrain(tokens: Path, batch: int, steps: int, compiled: bool) -> float | str:
    """Return mptrain's tokens per second, or why there are none."""
    config = tokens.parent / "gpt2.yaml"
    config.write_text(config_text(tokens, batch, steps))
    command = ["-m", "mptrain", "run", str(config), f"train.compile={str(compiled).lower()}", "--json"]
    return _turn([*command, "--output-dir", str(tokens.parent / "runs")], lambda result: result["tokens_per_s"])


def run_plain(tokens: Path, batch: int, steps: int, compiled: bool) -> float | str:
    """Return the plain loop's tokens per second, or why there are none."""
    command = ["-m", "benchmarks.gpu_gpt2", "--plain", str(tokens), "--batch", str(batch), "--steps", str(steps)]
    return _turn([*command, *(["--compile"] if compiled else [])], lambda result: result)


def _turn(command: list[str], speed: Callable[[Any], float | None]) -> float | str:
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    if done.returncode or not done.stdout.strip():
        return (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
    found = speed(json.loads(done.stdout))
    return "no speed: too few steps" if found is None else float(found)


def plain_loop(path: Path, device: str, batch: int, steps: int, *, compiled: bool) -> float:
    """Train with what nanoGPT's train.py does and nothing else; return tokens per second after WARM_UP steps."""
    import numpy as np
    import torch
    from torch.nn.functional import cross_entropy

    from mptrain.interfaces import DataSpec
    from mptrain.models.language.configs import Gpt2Config
    from mptrain.models.language.entries import GPT2_SIZES
    from mptrain.models.language.gpt import build_gpt

    spec = DataSpec((CONTEXT,), VOCABULARY, kind="language_modelling", vocab_size=VOCABULARY)
    model = build_gpt(Gpt2Config(name=MODEL, num_classes=PADDED), spec, GPT2_SIZES[MODEL]).to(device)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), fused=True)
    network = torch.compile(model) if compiled else model
    tokens = np.memmap(path, np.uint16, "r")
    on_gpu = device == "cuda"

    def get_batch() -> list[torch.Tensor]:
        starts = torch.randint(len(tokens) - CONTEXT, (batch,)).tolist()
        windows = torch.stack([torch.from_numpy(tokens[s : s + CONTEXT + 1].astype(np.int64)) for s in starts])
        pair = (windows[:, :-1].contiguous(), windows[:, 1:].contiguous())
        return [t.pin_memory().to(device, non_blocking=True) if on_gpu else t for t in pair]

    def synchronised() -> float:
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    began = synchronised()
    inputs, targets = get_batch()
    for step in range(steps):
        if step == WARM_UP:
            began = synchronised()
        with torch.autocast(device, dtype=torch.bfloat16):
            logits = network(inputs)
            loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
        inputs, targets = get_batch()  # while the GPU computes
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return (steps - WARM_UP) * batch * CONTEXT / (synchronised() - began)


if __name__ == "__main__":
    main()
