"""Records to feed reporters with: a short run that overflows once."""

from typing import Any

from mptrain.telemetry.records import Evaluation, Event, GradientHistogram, Numerics, Progress, RunInfo


def run_info(**changes: Any) -> RunInfo:
    values: dict[str, Any] = {
        "name": "resnet",
        "run_id": "r1",
        "run_dir": "runs/resnet/r1",
        "device": "cpu (2 threads)",
        "precision": "fp16: weights fp32, compute fp16, loss scale dynamic from 65536",
        "model": "resnet18, 11.2 M parameters",
        "data": "fashion_mnist_12k, 10000 train, 2000 test",
        "total_steps": 312,
        "steps_per_epoch": 78,
    }
    return RunInfo(**(values | changes))


def progress(step: int = 50, **changes: Any) -> Progress:
    values: dict[str, Any] = {
        "attempted_steps": step + 1,
        "applied_steps": step,
        "skipped_steps": 1,
        "last_skipped_step": 12,
        "steps_done": step,
        "epoch": step // 78,
        "epoch_step": step % 78,
        "loss": 1.23451,
        "lr": 0.04,
        "grad_norm": 1.234,
        "loss_scale": 32768.0,
        "samples_per_s": 245.12,
        "step_time_ms": 522.2,
        "data_wait_fraction": 0.003,
        "peak_memory_bytes": 1288490189,
        "wall_s": step * 0.5,
    }
    return Progress(**(values | changes))


def numerics(**changes: Any) -> Numerics:
    values: dict[str, Any] = {
        "attempted_step": 50,
        "format": "fp16",
        "loss_scale": 32768.0,
        "grad_norm": 1.31,
        "amax": 0.02,
        "headroom": 6.64,
        "zero_share": 0.01,
        "below_normal_share": 0.003,
        "below_subnormal_share": 0.0,
        "lost_update_share": None,
        "underflow_share": None,
        "histogram": GradientHistogram(-12, (3, 40, 7), 2),
    }
    return Numerics(**(values | changes))


def evaluation(**changes: Any) -> Evaluation:
    values: dict[str, Any] = {
        "applied_steps": 78,
        "epoch": 0,
        "metrics": {"loss": 0.41, "accuracy": 0.8512, "samples": 2000},
        "main_metric": "accuracy",
        "improved": True,
        "seconds": 1.25,
    }
    return Evaluation(**(values | changes))


def overflow(step: int = 12) -> Event:
    return Event("overflow", step, step - 1, "gradients overflowed; loss scale 65536 -> 32768", {"loss_scale": 32768.0})


def result(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "schema": 1,
        "status": "ok",
        "exit_code": 0,
        "precision": {"mode": "fp16"},
        "device": "cpu",
        "applied_steps": 312,
        "attempted_steps": 313,
        "skipped_steps": 1,
        "final_loss_scale": 32768.0,
        "train_loss": 0.3123,
        "metrics": {"loss": 0.33, "accuracy": 0.8875, "samples": 2000},
        "samples_per_s": 245.12,
        "step_time_ms": {"median": 520.0, "p90": 541.0},
        "peak_memory_bytes": 1288490189,
        "data_wait_fraction": 0.003,
        "wall_s": 176.4,
        "seed": 0,
        "versions": {},
    }
    return values | changes
