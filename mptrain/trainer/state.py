"""What a checkpoint holds of the objects a step works on: weights, optimizer, average, loss scale.

Owns: the names of the parts and the order in which they are restored. Must not: know the loop's own state
(`trainer.py` adds it) or the files (`mptrain.checkpoint`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mptrain.optim.build import restore_optimizer
from mptrain.precision.loss_scaler import LossScaler
from mptrain.precision.weights import in_full
from mptrain.trainer.build import Run


def parts_state(run: Run) -> dict[str, Any]:
    """Return the state of what the step works on, by checkpoint part; tensors of the model are copies."""
    parts = run.parts
    state: dict[str, Any] = {
        "model": _copied(parts.weights.model_state(parts.model)),
        "optimizer": parts.optimizer.state_dict(),
        "weights": parts.weights.state_dict(),
        "scaler": parts.scaler.state_dict() | {"precision": run.in_force.mode},
    }
    if parts.average:
        state["ema"] = parts.average.state_dict()
    return state


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies, one of a tied weight for all its names, so that a file holds it once."""
    copies: dict[tuple[Any, ...], Tensor] = {}
    copied = {}
    for name, value in state.items():
        place = (value.data_ptr(), value.dtype, value.shape, value.stride())
        if place not in copies:
            copies[place] = value.detach().clone()
        copied[name] = copies[place]
    return copied


def restore_parts(run: Run, state: dict[str, Any], steps_done: int) -> str | None:
    """Put `state` back; return in words what became of the loss scale where precision or scaling changed."""
    parts = run.parts
    stored = state.get("weights", {})
    parts.weights.load_model_state(parts.model, in_full(parts.weights, parts.model, state["model"], stored))
    parts.weights.load_state_dict(stored)
    restore_optimizer(parts.optimizer, state["optimizer"])
    if parts.average:
        parts.average.load_state_dict(state["ema"])
    parts.applied.set(steps_done)
    return _restore_scaler(parts.scaler, state["scaler"], run.in_force.mode)


def _restore_scaler(scaler: LossScaler, saved: dict[str, Any], mode: str) -> str | None:
    if saved["precision"] == mode and saved["kind"] == scaler.kind:
        scaler.load_state_dict(saved)
        return None
    changed = f"loss scaling changed {saved['kind']} -> {scaler.kind}"
    if saved["precision"] != mode:
        changed = f"precision changed {saved['precision']} -> {mode}"
    scale = scaler.take_over(saved)
    return f"{changed}: {scale}" if scale else changed
