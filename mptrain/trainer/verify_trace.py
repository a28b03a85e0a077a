"""One run of `mptrain verify-resume`, in a process of its own: trains as ever, and writes a trace of every bit.

    whole     trains to the end without a cut
    cut       is told to stop at the cut, as a preemption would, and saves
    resumed   goes on from that checkpoint to the end

Owns: what a trace holds: a row for each attempted step, and the whole state at certain moments, as digests by component
and name. Must not: compare (`verify_compare.py`) or print.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mptrain import checkpoint as checkpoints
from mptrain.catalog import load_config
from mptrain.checkpoint import CheckpointStore
from mptrain.config.schema import PlantConfig, RunConfig
from mptrain.data.cached import tensor_list
from mptrain.errors import CapabilityError, ConfigError, MptrainError, Preempted
from mptrain.interfaces import Batch
from mptrain.telemetry.records import Evaluation, Event, Progress, RunInfo
from mptrain.trainer.build import Run, build_run, describe_device, resolve_device
from mptrain.trainer.endings import ending_of
from mptrain.trainer.randomness import random_state
from mptrain.trainer.resume import leaves
from mptrain.trainer.trainer import Trainer
from mptrain.trainer.verify_resume import Job

Digests = dict[str, str]
State = dict[str, Digests]
"""Component -> name -> digest."""


def main(job_file: str) -> None:
    """Do the job that a file describes, write its trace or how it failed, and exit."""
    _end_with_parent()
    job = Job(**json.loads(Path(job_file).read_text()))
    try:
        outcome: dict[str, Any] = {"status": "ok", "exit_code": 0, "error": None} | record(job)
    except BaseException as error:
        ending = ending_of(error, training=True)
        if ending is None:
            traceback.print_exception(error)
            ending = MptrainError(traceback.format_exception_only(error)[-1].strip())
        outcome = {"status": ending.status, "exit_code": ending.exit_code, "error": str(ending)}
    try:
        Path(job.trace).write_text(json.dumps(outcome))
    except OSError:
        Path(job.trace).unlink(missing_ok=True)  # half of it says nothing
        sys.exit(CapabilityError.exit_code)
    sys.exit(outcome["exit_code"])


def _end_with_parent() -> None:
    """Die when the command that started this process is gone: its end of the standard input closes."""

    def watch() -> None:
        os.read(0, 1)  # not sys.stdin: a forked loader would find its lock taken
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def record(job: Job) -> dict[str, Any]:
    """Train the job's part and return its trace."""
    config = load_config(Path(job.config)).config
    store = CheckpointStore(Path(job.checkpoints))
    if job.part == "whole":
        trainer = TracedTrainer(build_run(config), job.cut)
    elif job.part == "cut":
        trainer = TracedTrainer(build_run(_with_a_preemption(config, job.cut)), job.cut, store)
    else:
        saved = store.newest()
        state = checkpoints.load(saved.path, device=resolve_device(config.device))
        trainer = TracedTrainer(build_run(config, steps_done=saved.step), job.cut)
        trainer.restore(state)
        trainer.keep("restored")
    try:
        trainer.fit()
        trainer.keep("end")
    except Preempted:
        if job.part != "cut":
            raise
        trainer.keep("saved")
    return trainer.trace()


def _with_a_preemption(config: RunConfig, cut: int | None) -> RunConfig:
    assert cut is not None, "the run without a cut says where it is"
    plant = (*config.debug.plant, PlantConfig(what="sigterm", at=cut))
    return config.model_copy(update={"debug": config.debug.model_copy(update={"plant": plant})})


class TracedTrainer(Trainer):
    """A trainer that waits for every attempt and writes down what went into it and what came out."""

    def __init__(self, run: Run, cut: int | None, store: CheckpointStore | None = None) -> None:
        self._evaluations = Evaluations()
        super().__init__(run, self._evaluations, store)
        self.cut = _checked_cut(cut, self.target)
        self._rows: list[dict[str, Any]] = []
        self._states: dict[str, State] = {}
        self._phases: dict[str, int] = {}

    def keep(self, moment: str) -> None:
        """Write down the whole state as it is now."""
        self._states[moment] = state_digests(self)
        self._phases[moment] = self.run.phase_end

    def trace(self) -> dict[str, Any]:
        """Return everything that was written down."""
        first = self._rows[0]["attempted"] if self._rows else None
        counted = [row["attempted"] for row in self._rows]
        assert first is not None, "no attempt was seen"
        assert counted == list(range(first, self.ledger.counts.attempted + 1)), "an attempt was not seen"
        return {
            "name": self.run.config.name,
            "device": describe_device(self.run.device),
            "precision": self.run.in_force.line(),
            "steps": self.target,
            "cut": self.cut,
            "rows": self._rows,
            "states": self._states,
            "phases": self._phases,
            "evaluations": self._evaluations.seen,
        }

    def _launch(self, window: list[Batch]) -> None:
        if self._launched == self.cut:
            self.keep("next")
        row = {
            "attempted": self._launched + 1,
            "batches": _digest([tensor for batch in window for part in batch for tensor in tensor_list(part)]),
            "random": _named(random_state(self.run.device)),
            "lr": _digest(self.run.parts.applied.lr),
        }
        super()._launch(window)
        self._settle()
        last, parts = self.ledger.last, self.run.parts
        row |= {"loss_scale": _digest(last.loss_scale), "loss": _digest(last.loss)}
        # Reads all weights at each step: some seconds for a billion parameters, and says which step went astray.
        row["weights"] = _digest([parts.weights.best(p) for p in parts.model.parameters()])
        self._rows.append(row)
        if self._launched == self.cut:
            self.keep("cut")


def _checked_cut(cut: int | None, steps: int) -> int:
    """Return the attempted steps before the cut; raise ConfigError where nothing would be left on one side."""
    if steps < 2:
        raise ConfigError(f"train: the run has {steps} step; a cut needs one before it and one after it")
    if cut is not None and cut >= steps:
        raise ConfigError(f"--cut: {cut} must be less than the {steps} steps of the check")
    return steps // 2 if cut is None else cut


class Evaluations:
    """A reporter that keeps the evaluations."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def begin(self, info: RunInfo) -> None:
        """Do nothing."""

    def progress(self, progress: Progress) -> None:
        """Do nothing."""

    def window(self, progress: Progress) -> None:
        """Do nothing: with a record for each attempt it would be the attempt's own loss."""

    def evaluated(self, evaluation: Evaluation) -> None:
        """Keep the metrics, bit by bit."""
        self.seen.append({"applied_steps": evaluation.applied_steps, "metrics": _named(evaluation.metrics)})

    def event(self, event: Event) -> None:
        """Do nothing."""

    def end(self, result: Mapping[str, Any]) -> None:
        """Do nothing."""


def state_digests(trainer: Trainer) -> State:
    """Return what a checkpoint would hold now, and what it would not: buffers that are not saved, low weights."""
    run, state = trainer.run, trainer.state()
    model, loop = run.parts.model, dict(state["trainer"])
    parameters = dict(model.named_parameters(remove_duplicate=False))
    saved: Mapping[str, Tensor] = state["model"]
    low = {name: p for name, p in parameters.items() if name in saved and p.dtype != saved[name].dtype}
    return {
        "model": _named({name: value for name, value in saved.items() if name in parameters}),
        "buffers": _named({name: value for name, value in saved.items() if name not in parameters}),
        "optimizer": _optimizer(run, state["optimizer"]),
        "ema": _named(state.get("ema", {})),
        "scaler": _named(state["scaler"]),
        "storage": _named({**state["weights"], "as computed with": low}),
        "random": _named(loop.pop("random")),
        "position": _named(dict(zip(("epoch", "micro_batch"), loop.pop("position"), strict=True))),
        "account": _named(loop),
        "unsaved": _named({name: value for name, value in model.named_buffers() if name not in saved}),
    }


def _optimizer(run: Run, state: Mapping[str, Any]) -> Digests:
    """Return the optimizer's state by the name of the parameter it belongs to."""
    parts = run.parts
    names = {id(parts.weights.optimized(p)): name for name, p in parts.model.named_parameters()}
    numbers = [id(p) for group in parts.optimizer.param_groups for p in group["params"]]
    found: dict[str, Any] = {}
    for index, entries in state["state"].items():
        name = names.get(numbers[index], f"parameter {index}")
        found |= {f"state of {name}, {key}": value for key, value in leaves(entries)}
    for index, group in enumerate(state["param_groups"]):
        # Its rate is the schedule's, written anew before each step.
        found |= {f"settings of group {index}, {key}": value for key, value in leaves(group) if key != "lr"}
    return _named(found)


def _named(tree: Mapping[str, Any]) -> Digests:
    return {name: _digest(value) for name, value in leaves(tree)}


def _digest(value: Any) -> str:
    """Return a digest of a value's bits: of what a tensor holds, its format and its shape; of a list, in order."""
    made = hashlib.blake2b(digest_size=16)
    _feed(made, value)
    return made.hexdigest()


def _feed(made: hashlib.blake2b, value: Any) -> None:
    if isinstance(value, Tensor):
        made.update(f"{value.dtype} {tuple(value.shape)};".encode())
        made.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        made.update(f"{len(value)};".encode())
        for item in value:
            _feed(made, item)
    elif isinstance(value, Mapping):
        _feed(made, [[key, item] for key, item in value.items()])
    else:  # a float's repr tells all its bits but those of a NaN
        made.update(f"{type(value).__name__} {value!r};".encode())
