"""What a checkpoint holds of the objects a step works on: weights, optimizer, average, loss scale.

Owns: the names of the parts and the order in which they are restored. Must not: know the loop's own state
(`trainer.py` adds it) or the files (`mptrain.checkpoint`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mptrain.errors import CheckpointError
from mptrain.optim.build import restore_optimizer
from mptrain.optim.ema import WeightAverage
from mptrain.precision.loss_scaler import LossScaler
from mptrain.precision.weights import in_full
from mptrain.trainer.build import Run
from mptrain.trainer.resume import allows

Said = tuple[str, str]
"""Kind and message of an event."""


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


def restore_parts(
    run: Run, state: dict[str, Any], steps_done: int, allowed: Mapping[str, str] | None = None
) -> list[Said]:
    """Put `state` back; return what could not go on as it was: a loss scale of another precision, say.

    Where a change of model, optimizer or average is `allowed`, what still fits goes on and the rest begins anew.
    Raises CheckpointError for weights of another model.
    """
    parts, allowed = run.parts, allowed or {}
    said: list[Said] = []
    own = parts.weights.model_state(parts.model)
    foreign = mismatch(own, state["model"])
    if foreign and not allows("model", allowed):
        raise CheckpointError(f"model.pt: {foreign}: it is of another model")
    if foreign:
        weights, new = _fitting(own, state["model"])
        said += [("begins_anew", text) for text in new]
        parts.weights.load_model_state(parts.model, weights)
    else:
        stored = state.get("weights", {})
        parts.weights.load_model_state(parts.model, in_full(parts.weights, parts.model, state["model"], stored))
        parts.weights.load_state_dict(stored)
    if foreign or any(allows(f"optimizer.{key}", allowed) for key in ("name", "decay_norm_and_bias")):
        said.append(("begins_anew", "the optimizer's state begins anew"))
    else:
        restore_optimizer(parts.optimizer, state["optimizer"])
    if parts.average:
        said += _restore_average(run, parts.average, state.get("ema", {}), allowed)
    parts.applied.set(steps_done)
    if change := _restore_scaler(parts.scaler, state["scaler"], run.in_force.mode):
        said.append(("precision_change", change))
    return said


def _restore_average(
    run: Run, average: WeightAverage, saved: Mapping[str, Tensor], allowed: Mapping[str, str]
) -> list[Said]:
    foreign = mismatch(average.state_dict(), saved)
    if foreign and not (allows("model", allowed) or allows("ema", allowed)):
        raise CheckpointError(f"ema.pt: {foreign}: it is of another model")
    weights = run.parts.weights.model_state(run.parts.model)
    fitting, _ = _fitting({name: weights[name] for name in average.state_dict()}, saved)
    average.load_state_dict(fitting)
    return [("begins_anew", "what is new in the average begins at the weights")] if foreign else []


def mismatch(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> str | None:
    """Return in words the first tensor, by name and shape, that one of two states has and the other has not."""
    for name in {**saved, **own}:
        shapes = [str(tuple(state[name].shape)) if name in state else "absent" for state in (saved, own)]
        if shapes[0] != shapes[1]:
            return f"{name} is {shapes[0]}, in the model it is {shapes[1]}"
    return None


def _fitting(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return `own` with what fits of `saved` in its place, and in words what began anew or was left out."""
    fits = [name for name, value in own.items() if name in saved and saved[name].shape == value.shape]
    new, left = [name for name in own if name not in fits], [name for name in saved if name not in own]
    said = [f"{_some(new)} begin anew"] if new else []
    if left:
        said.append(f"{_some(left)} of the checkpoint left out")
    return {name: saved[name] if name in fits else value for name, value in own.items()}, said


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _restore_scaler(scaler: LossScaler, saved: dict[str, Any], mode: str) -> str | None:
    if saved["precision"] == mode and saved["kind"] == scaler.kind:
        scaler.load_state_dict(saved)
        return None
    changed = f"loss scaling changed {saved['kind']} -> {scaler.kind}"
    if saved["precision"] != mode:
        changed = f"precision changed {saved['precision']} -> {mode}"
    scale = scaler.take_over(saved)
    return f"{changed}: {scale}" if scale else changed
