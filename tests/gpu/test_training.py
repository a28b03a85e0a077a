"""Training on a GPU: no wait for the device in a step, nothing changed by a skip, exact resumption, true figures.

The same properties are proved on a CPU in tests/trainer; here the device runs behind the host and counts by itself.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from mptrain import checkpoint as checkpoints
from mptrain.checkpoint import CheckpointStore
from mptrain.config.precision import PrecisionConfig
from mptrain.config.schema import ModelConfig
from mptrain.data.cached import CachedTrainLoader
from mptrain.errors import Preempted
from mptrain.interfaces import Batch, DataSpec
from mptrain.precision.capability import support
from mptrain.precision.policy import resolve_policy
from mptrain.telemetry.attempt_log import CudaAttemptLog
from mptrain.trainer.trainer import Trainer
from tests.trainer.runs import Recorder, merged, registered, same, trainer, weights
from tests.trainer.test_skips import everything, fit_and_check_unchanged_by

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use"),
]

GPU = torch.device("cuda:0")
MODES = ["fp32", "tf32", "fp16", "bf16"]


def conv_net(config: ModelConfig, spec: DataSpec) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Flatten(),
        nn.Linear(16 * 8 * 8, spec.num_outputs),
    )


@pytest.fixture(autouse=True, scope="module")
def _conv_net_registered() -> Iterator[None]:
    with registered("gpu_test_conv", conv_net):
        yield


# 2,048 samples in micro-batches of 16, two a step: 64 steps an epoch.
EVERYTHING: dict[str, Any] = {
    "device": "cuda:0",
    "model": "gpu_test_conv",
    "data": {"input_shape": [3, 16, 16], "num_train": 2048, "num_test": 100, "batch_size": 16},
    "optimizer": {"name": "adamw", "lr": 3e-3, "weight_decay": 0.01, "decay_norm_and_bias": False},
    "schedule": {"name": "cosine", "warmup_steps": 5},
    "train": {"max_steps": 60, "accumulate": 2, "clip_norm": 1.0, "channels_last": True},
    "ema": 0.9,
    "log": {"every": 1000},
}


def changed(mode: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return EVERYTHING in `mode`; skip the test where this GPU cannot run it."""
    found = support(mode, GPU)
    if found.level == "no":
        pytest.skip(f"this GPU cannot run {mode}: {found.reason}")
    return merged(EVERYTHING, {"precision": {"mode": mode}, **(changes or {})})


@pytest.fixture
def waits_allowed_again() -> Iterator[None]:
    """Undo the sync debug mode, also after a failure."""
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.usefixtures("waits_allowed_again")
def test_trains_without_waiting_for_the_device(mode: str, optimizer: str) -> None:
    made = trainer(changed(mode, {"optimizer": {"name": optimizer}, "log": {"numerics_every": 7}}))
    inner = made._attempt

    def watched(window: list[Batch]) -> None:
        # Stays in force between attempts: loading and taking in outcomes must not wait either.
        torch.cuda.set_sync_debug_mode("error" if 10 <= made._launched < 40 else "default")
        inner(window)

    made._attempt = watched
    made.fit()
    assert made.ledger.counts.applied == 60
    assert int(made.run.parts.applied.count) == 60
    assert made.metrics["accuracy"] > 0.6  # four classes
    assert made.metrics["samples"] == 100
    assert {p.dtype for p in made.run.parts.model.parameters()} == {torch.float32}
    samples = [event for event in made.reporter.events if event.kind == "numerics"]
    assert [event.attempted_step for event in samples] == [*range(7, made.ledger.counts.attempted + 1, 7)]
    assert list(samples[-1].data["by_parameter"]) == [name for name, _ in made.run.parts.model.named_parameters()]


@pytest.mark.usefixtures("waits_allowed_again")
def test_the_watch_would_see_a_wait() -> None:
    torch.cuda.set_sync_debug_mode("error")
    with pytest.raises(RuntimeError, match="synchroniz"):
        torch.ones((), device=GPU).item()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", ["inf_grad", "nan_loss", "nan_input"])
@pytest.mark.parametrize("at", [1, 7])
def test_a_skipped_step_changes_nothing(mode: str, fault: str, at: int) -> None:
    made = trainer(changed(mode, {"train": {"max_steps": 10}, "debug": {"plant": [{"what": fault, "at": at}]}}))
    fit_and_check_unchanged_by(made, at)
    # FP16 may skip more steps of itself until its scale is found.
    counts = made.ledger.counts
    assert counts.applied == 10
    assert counts.skipped == 1 or (mode == "fp16" and counts.skipped > 1)
    assert all(value.isfinite().all() for value in weights(made.run))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("restored_to", ["cpu", "cuda:0"])
def test_resume_is_exact_in_deterministic_mode(mode: str, restored_to: str, tmp_path: Any) -> None:
    changes = changed(mode, {"train": {"max_steps": 24, "deterministic": True}, "log": {"every": 5}})
    overflow = [{"what": "inf_grad", "at": 4}]
    whole = trainer(merged(changes, {"debug": {"plant": overflow}}))
    whole.fit()
    store = CheckpointStore(tmp_path)
    with pytest.raises(Preempted):
        trainer(merged(changes, {"debug": {"plant": [*overflow, {"what": "sigterm", "at": 11}]}}), store).fit()
    torch.rand(7, device=GPU)  # whatever happens to global generators meanwhile must not matter
    resumed = trainer(merged(changes, {"debug": {"plant": overflow}}), store)
    latest = store.latest()
    assert latest is not None
    resumed.restore(checkpoints.load(latest.path, device=restored_to))
    resumed.fit()
    assert same(weights(whole.run), weights(resumed.run))
    assert whole.ledger.counts == resumed.ledger.counts
    assert whole.final_loss_scale() == resumed.final_loss_scale()
    assert whole.metrics == resumed.metrics
    ours, theirs = everything(whole), everything(resumed)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_outcomes_arrive_in_order_and_the_same_as_at_once() -> None:
    # bf16 or fp32, whichever this GPU has: no overflow but the planted ones.
    mode = "bf16" if support("bf16", GPU).level != "no" else "fp32"
    bad = (3, 8, 21, 22, 58, 91)
    plant = [{"what": "inf_grad", "at": at} for at in bad]
    made = trainer(
        changed(
            mode,
            {"train": {"max_steps": 120, "eval_every_steps": 7}, "log": {"every": 10}, "debug": {"plant": plant}},
        )
    )
    made.fit()
    overflows = [e for e in made.reporter.events if e.kind == "overflow"]
    assert [e.attempted_step for e in overflows] == list(bad)
    planted_in = next(name for name, _ in made.run.parts.model.named_parameters())
    assert [e.data["parameters"] for e in overflows] == [[planted_in]] * len(bad)
    assert [w.attempted_steps for w in made.reporter.windows] == [*range(10, 121, 10), 126]
    for window in made.reporter.windows:
        assert window.skipped_steps == sum(at <= window.attempted_steps for at in bad)
    assert [e.applied_steps for e in made.reporter.evaluations] == [*range(7, 120, 7), 120]


def test_the_log_loses_nothing_when_the_device_falls_behind() -> None:
    log = CudaAttemptLog(2, 10, GPU, windows_in_flight=3)
    values, busy = torch.zeros(2, device=GPU), torch.ones(2048, 2048, device=GPU)
    seen: list[float] = []
    for index in range(457):
        if index % 20 == 0:
            busy = (busy @ busy).clamp_(max=1.0)
        values.fill_(index)
        log.record(values)
        if index % 97 == 0:
            seen += [row[0] for done in log.drain() for row in done.rows]
        elif index % 3 == 0 and (done := log.completed()):
            seen += [row[0] for row in done.rows]
    seen += [row[0] for done in log.drain() for row in done.rows]
    assert seen == [float(index) for index in range(457)]


def test_the_log_s_clock_survives_a_pause() -> None:
    log = CudaAttemptLog(2, 10, GPU)
    values = torch.zeros(2, device=GPU)
    log.record(values)
    log.drain()
    time.sleep(1.0)  # an evaluation, then a save: two drains with nothing between them
    log.drain()
    log.record(values)
    (done,) = log.drain()
    assert abs(time.perf_counter() - done.at) < 0.5


def test_data_are_held_on_the_device() -> None:
    made = trainer(changed("fp32", {"data": {"cache": "device"}}))
    assert isinstance(made.run.train_loader, CachedTrainLoader)
    batch = next(iter(made.run.train_loader.epoch(0)))
    assert batch.inputs.device == batch.targets.device == GPU


def test_peak_memory_is_this_run_s() -> None:
    gc.collect()  # trainers of earlier tests
    earlier_peak = torch.empty(2**30, dtype=torch.uint8, device=GPU)
    del earlier_peak
    made = trainer(changed("fp32", {"log": {"every": 20}}))
    made.fit()
    peak = made.reporter.windows[-1].peak_memory_bytes
    weights_and_moments = 3 * sum(p.nbytes for p in made.run.parts.model.parameters())
    assert weights_and_moments < peak < 2**30
    assert peak <= torch.cuda.max_memory_allocated(GPU)


class SlowBatches:
    """Evaluation batches that take their time, and keep account of it."""

    def __init__(self, batches: Any) -> None:
        self._batches, self.seconds = batches, 0.0

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        began = time.perf_counter()
        for batch in self._batches:
            time.sleep(0.1)
            yield batch
        self.seconds += time.perf_counter() - began


def test_speed_is_that_of_training_alone(tmp_path: Any) -> None:
    changes = changed("fp32", {"train": {"max_steps": 600, "eval_every_steps": 100}, "log": {"every": 50}})
    made = trainer(merged(changes, {"checkpoint": {"every": 100}}), CheckpointStore(tmp_path))
    slow = SlowBatches(made.run.eval_batches)
    made = Trainer(replace(made.run, eval_batches=slow), Recorder(), made.store)
    attempt, save, began, saving = made._attempt, made._save, [], []

    def timed_attempt(window: list[Batch]) -> None:
        if made._launched == 10:
            torch.cuda.synchronize()
            began.append(time.perf_counter())
        attempt(window)

    def timed_save() -> None:
        torch.cuda.synchronize()
        start = time.perf_counter()
        save()
        saving.append(time.perf_counter() - start)

    made._attempt, made._save = timed_attempt, timed_save
    made.fit()
    training = time.perf_counter() - began[0] - slow.seconds - sum(saving)
    speed = made.pace.overall().samples_per_s
    assert speed is not None
    assert 0.7 < speed / (590 * 32 / training) < 1.4
    assert slow.seconds > 3.0  # what would make the figure wrong, were it counted


def test_auto_takes_the_lowest_native_precision() -> None:
    capability = torch.cuda.get_device_capability(GPU)
    expected = "bf16" if capability >= (8, 0) else "fp16" if capability >= (7, 0) else "fp32"
    policy = resolve_policy(PrecisionConfig(mode="auto"), GPU)
    assert policy.mode.name == expected
    assert policy.reason
