"""What can be done with a saved run: build it again, evaluate it, export its weights.

Owns: finding the checkpoint and what of it is the model. Must not: train.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mptrain import checkpoint as checkpoints
from mptrain.catalog import load_config
from mptrain.checkpoint import Checkpoint, CheckpointStore
from mptrain.durable import read_regular
from mptrain.errors import CapabilityError, CheckpointError, ConfigError, first_line
from mptrain.trainer.build import Run, build_run
from mptrain.trainer.data_watch import skipped_files
from mptrain.trainer.endings import known_endings
from mptrain.trainer.evaluate import evaluate
from mptrain.trainer.predictions import ignore, written_to
from mptrain.trainer.run_dir import CHECKPOINTS

log = logging.getLogger(__name__)
EXPORT_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def find_checkpoint(run_dir: Path, *, best: bool) -> Checkpoint:
    """Return the newest (or best) checkpoint of a run of those that can be read; log why others cannot.

    Raises CheckpointError where there is none.
    """
    if not os.path.isfile(run_dir / "config.yaml"):  # Path.is_file raises on a name that is too long
        raise CheckpointError(f"{run_dir}: not a run directory (no config.yaml)")
    store = CheckpointStore(run_dir / CHECKPOINTS)
    found = store.best() if best else store.latest()
    reasons = [str(error) for error in store.found().unreadable]
    if found is None:
        kind = "evaluated" if best else "complete"
        raise CheckpointError(f"{run_dir}: holds no {kind} checkpoint{': ' if reasons else ''}{'; '.join(reasons)}")
    for reason in reasons:
        log.warning("skipped a checkpoint: %s", reason)
    return found


def saved_run(run_dir: Path, overrides: Sequence[str], *, best: bool) -> tuple[Run, Checkpoint]:
    """Build a run as at its last step, with the weights that evaluation uses, of its newest (or best) checkpoint.

    Raises CheckpointError where there is none, ConfigError where the overrides do not fit it, and what building does.
    """
    found = find_checkpoint(run_dir, best=best)
    config = load_config(run_dir / "config.yaml", overrides, plugin_folders(run_dir)).config
    run = build_run(config, steps_done=max(found.step - 1, 0))
    _load_weights(run.parts.model, _saved_weights(found, run.device), found.path, changed=bool(overrides))
    return run, found


def plugin_folders(run_dir: Path) -> list[str]:
    """Return the folders that the run's plugins were found in, for they may lie beside a config far from the run."""
    try:
        files: dict[str, str | None] = json.loads(read_regular(run_dir / "env.json"))["plugins"]
        roots = [
            Path(file).parents[name.count(".") + (Path(file).stem == "__init__")]
            for name, file in files.items()
            if file
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return []  # an older run, or a record that somebody changed: what is missing is named when it is imported
    return [str(root) for root in roots]


def evaluate_run(
    run_dir: Path, overrides: Sequence[str], *, best: bool, predictions: Path | None = None
) -> dict[str, Any]:
    """Evaluate a run's checkpoint as training did: its average where it kept one, in the precision of its last step.

    `predictions` is a file to write, with a line of JSON for each test sample.
    """
    with known_endings():
        run, found = saved_run(run_dir, overrides, best=best)
        parts, batches = run.parts, run.eval_batches
        keep = nullcontext(ignore) if predictions is None else written_to(predictions, parts.task, batches.left_out)
        with keep as on_batch:
            metrics = evaluate(parts.model, parts.task, batches, parts.policy, run.device, on_batch)
    result: dict[str, Any] = {
        "checkpoint": found.path.name,
        "applied_steps": found.step,
        "precision": run.in_force.mode,
        "metrics": metrics,
        "skipped_files": skipped_files(run.splits.bad_files),
    }
    return result if predictions is None else result | {"predictions": str(predictions)}


def export_run(run_dir: Path, output: Path, dtype_name: str, *, best: bool) -> dict[str, Any]:
    """Write the weights that evaluation used as safetensors, floating-point ones cast to `dtype_name`.

    Raises ConfigError where a weight does not fit the format, CapabilityError where the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    found = find_checkpoint(run_dir, best=best)
    dtype = EXPORT_DTYPES[dtype_name]
    tensors: dict[str, Tensor] = {}
    written: set[int] = set()
    for name, value in _saved_weights(found, torch.device("cpu")).items():
        cast = value.to(dtype) if value.is_floating_point() else value
        if cast.isfinite().logical_not().any() and value.isfinite().all():
            raise ConfigError(
                f"--dtype {dtype_name}: {name} has values up to {value.abs().max().item():g}, beyond the format's "
                f"{torch.finfo(dtype).max:g}; use bf16 or fp32"
            )
        # A tied weight is written under each of its names; the format holds no two names of one tensor.
        tensors[name] = cast.clone() if cast.data_ptr() in written else cast.contiguous()
        written.add(cast.data_ptr())
    metadata = {"format": "pt", "dtype": dtype_name, "applied_steps": str(found.step)}
    if os.path.isdir(output):
        raise ConfigError(f"--output: {output} is a folder; name a file in it, e.g. {output / 'weights.safetensors'}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, output, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise CapabilityError(f"cannot write {output}: {first_line(error)}; choose another --output") from None
    return {"output": str(output), "checkpoint": found.path.name, "dtype": dtype_name, "tensors": len(tensors)}


def evaluated_weights(parts: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the model's state with averaged weights in place where the run kept an average."""
    return {**parts["model"], **parts.get("ema", {})}


def _saved_weights(checkpoint: Checkpoint, device: torch.device) -> dict[str, Tensor]:
    parts = checkpoints.load(checkpoint.path, device=device)
    if "model" not in parts:
        raise CheckpointError(f"{checkpoint.path}: its manifest lists no model.pt; take an earlier checkpoint")
    for name in ("model", "ema"):
        state = parts.get(name, {})
        if not isinstance(state, Mapping) or not all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
        ):
            raise CheckpointError(f"{checkpoint.path / name}.pt: holds no weights by name; take an earlier checkpoint")
    return evaluated_weights(parts)


def _load_weights(model: nn.Module, weights: dict[str, Tensor], path: Path, *, changed: bool) -> None:
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    saved = {name: tuple(value.shape) for name, value in weights.items()}
    if own != saved:
        name = next(name for name in {**saved, **own} if saved.get(name) != own.get(name))
        problem = f"{path}: {name} is {saved.get(name, 'absent')}, in the model it is {own.get(name, 'absent')}"
        if changed:
            raise ConfigError(f"{problem}; leave out the override that changes the model or the data's shape")
        raise CheckpointError(f"{problem}; it belongs to another run")
    model.load_state_dict(weights)
