"""Run folders with chosen results, written as a run writes them, for what would take many real runs."""

import json
from dataclasses import asdict
from pathlib import Path

from mptrain.config.emit import emit_yaml
from mptrain.precision.in_force import InForce
from mptrain.telemetry.files import indented

SETTINGS = {
    "name": "small",
    "seed": 0,
    "device": "cpu",
    "model": {"name": "mlp", "hidden": [16]},
    "data": {"name": "synthetic", "batch_size": 8},
    "task": {"name": "classification"},
    "optimizer": {"name": "adamw", "lr": 0.01},
    "train": {"max_steps": 40},
    "precision": {
        "mode": "fp32",
        "backend": "auto",
        "rounding": "nearest",
        "overrides": [],
        "phases": [],
        "loss_scale": {"kind": "auto", "init_scale": 65536.0},
    },
    "log": {"every": 10},
}


def merged(base, over):
    """Return `over` laid over `base`, mappings key by key."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return {**base, **{key: merged(base.get(key), value) for key, value in over.items()}}


def in_force(mode="fp32", *, emulated=False):
    """Return the record of what was in force."""
    dtypes = ("param_dtype", "compute_dtype", "grad_dtype", "optimizer_dtype", "loss_dtype", "reduce_dtype")
    return InForce(
        requested=mode,
        mode=mode,
        reason="asked for",
        backend="emulated" if emulated else "native",
        **dict.fromkeys(dtypes, "fp32"),
        autocast=False,
        master_weights=False,
        rounding=None,
        formats=None,
        overrides=0,
        loss_scale="none",
        tf32={"matmul": "ieee"},
        device="cpu",
    )


def train(step, loss=1.0, **fields):
    """Return a logged window."""
    record = {"type": "train", "attempted_steps": step, "applied_steps": step, "skipped_steps": 0, "loss": loss}
    record |= {"loss_scale": None, "samples_per_s": 100.0, "step_time_ms": 10.0, "data_wait_fraction": 0.01}
    return record | {"peak_memory_bytes": 1000, "wall_s": step / 100, "numerics": None} | fields


def evaluation(step, accuracy, *, metric="accuracy", improved=True):
    """Return an evaluation."""
    metrics = {metric: accuracy, "loss": 1.0, "samples": 50}
    record = {"type": "eval", "applied_steps": step, "epoch": 0, "metrics": metrics, "main_metric": metric}
    return record | {"improved": improved, "seconds": 0.1}


def event(kind, step, data=None, applied=None):
    """Return an event."""
    applied = step if applied is None else applied
    return {"kind": kind, "attempted_step": step, "applied_steps": applied, "message": "", "data": data or {}}


def lines(records):
    """Return records as JSON lines."""
    return "".join(json.dumps(record) + "\n" for record in records)


def write_run(folder, mode="fp32", seed=0, accuracy=0.9, *, settings=None, emulated=False, status="ok", **result):
    """Write a whole run that ended with `accuracy`; `result` replaces keys of result.json."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    own = {"seed": seed, "precision": {"mode": mode, **({"backend": "emulated"} if emulated else {})}}
    (folder / "config.yaml").write_text(emit_yaml(merged(merged(SETTINGS, own), settings or {})))
    (folder / "metrics.jsonl").write_text(lines([train(20, 2.0), evaluation(20, 0.5), train(40), evaluation(40, 0.9)]))
    (folder / "events.jsonl").write_text("")
    force = asdict(in_force(mode, emulated=emulated))
    (folder / "plan.json").write_text(json.dumps(force))
    content = {
        "schema": 1,
        "status": status,
        "exit_code": 0,
        "error": None,
        "wall_s": 1.0,
        "precision": force,
        "device": "cpu (x86_64, 1 threads)",
        "main_metric": {"name": "accuracy", "higher_is_better": True},
        "metrics": {"accuracy": accuracy, "loss": 1.0},
        "applied_steps": 40,
        "attempted_steps": 40,
        "skipped_steps": 0,
        "final_loss_scale": None,
        "train_loss": 1.0,
        "samples_per_s": None if emulated else 100.0,
        "step_time_ms": {"median": 10.0, "p90": 11.0},
        "peak_memory_bytes": 1000,
        "data_wait_fraction": 0.01,
    }
    (folder / "result.json").write_text(indented(content | result))
    return folder


def write_ladder(folder, accuracies, **options):
    """Write a run for each mode and seed; `accuracies` holds mode -> accuracy by seed."""
    for mode, values in accuracies.items():
        for seed, value in enumerate(values):
            write_run(Path(folder, f"{mode}-{seed}"), mode, seed, value, **options)
    return Path(folder)
