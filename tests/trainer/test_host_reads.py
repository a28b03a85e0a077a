"""The hot path never reads the device: counted as `_local_scalar_dense` over whole steps of the real loop."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mptrain.catalog import REGISTRIES, load_config
from mptrain.trainer.build import build_run
from mptrain.trainer.step import TrainStep
from tests.trainer.runs import PRECISIONS, merged, precision_id, trainer

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))
FUSED = [*sorted(entry.name for entry in REGISTRIES["optimizer"] if "fused" in entry.flags), "adagrad"]


class CountHostReads(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class NoticeHostReads(TorchFunctionMode):
    """Sees what the dispatcher does not: on a CPU `tolist` and `numpy` read memory without calling an operator."""

    READS = {"item", "tolist", "numpy", "cpu", "equal", "allclose", "nonzero", "is_nonzero", "unique"}
    READS |= {"__bool__", "__float__", "__int__", "__index__", "__contains__"}

    def __init__(self) -> None:
        super().__init__()
        self.seen = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func.__name__ in self.READS:
            self.seen.add(func.__name__)
        return func(*args, **(kwargs or {}))


def reads_in_50_steps(changes) -> int:
    made = trainer({"train": {"max_steps": 60}, **changes})
    reads_at = {}
    counter = CountHostReads()
    original = made._attempt

    def counted(window):
        original(window)
        reads_at[made._launched] = counter.reads

    made._attempt = counted
    with counter:
        made.fit()
    return reads_at[55] - reads_at[5]


def test_the_counter_counts():
    with CountHostReads() as counter:
        torch.ones(()).item()
        bool(torch.ones(()) > 0)
    assert counter.reads == 2


@pytest.mark.parametrize("mode", ["fp32", "bf16", "fp16", "fp64"])
@pytest.mark.parametrize("optimizer", FUSED)
def test_no_read_with_a_fused_optimizer(mode, optimizer):
    assert reads_in_50_steps({"optimizer": {"name": optimizer, "lr": 1e-3}, "precision": {"mode": mode}}) == 0


def everything_on(mode):
    return {
        "model": {"norm": "batch", "dropout": 0.1},
        "precision": {"mode": mode, "loss_scale": {"hysteresis": 2}},
        "train": {"max_steps": 60, "clip_norm": 1.0, "clip_value": 0.5, "accumulate": 2},
        "optimizer": {"name": "sgd", "lr": 0.01, "weight_decay": 1e-4, "decay_norm_and_bias": False},
        "schedule": {"name": "cosine", "warmup_steps": 5},
        "ema": 0.99,
    }


@pytest.mark.parametrize("mode", ["fp32", "fp16"])
def test_no_read_with_everything_on(mode):
    assert reads_in_50_steps(everything_on(mode)) == 0


def test_the_notice_notices():
    with NoticeHostReads() as notice:
        torch.ones(2).tolist()
        bool(torch.ones(()) > 0)
    assert notice.seen == {"tolist", "__bool__"}


@pytest.mark.parametrize("mode", ["fp32", "fp16"])
@pytest.mark.parametrize("optimizer", FUSED)
def test_no_python_read_in_a_step(mode, optimizer):
    made = trainer(merged(everything_on(mode), {"optimizer": {"name": optimizer}}))
    notice, inner = NoticeHostReads(), made._step

    def watched(window):
        with notice:
            return inner(window)

    made._step = watched
    made.fit()
    assert notice.seen == set()


@pytest.mark.parametrize("precision", PRECISIONS, ids=precision_id)
@pytest.mark.parametrize("optimizer", FUSED)
def test_no_read_in_any_mode(precision, optimizer):
    scaling = {"kind": "histogram", "histogram_every": 2, "groups": [{"match": "1"}]}
    changes = everything_on("fp32") | {
        "precision": precision | {"loss_scale": scaling},
        "optimizer": {"name": optimizer, "lr": 1e-4, "weight_decay": 1e-4, "decay_norm_and_bias": False},
        "train": {"max_steps": 8, "clip_norm": 1.0, "clip_value": 0.5, "accumulate": 2},
        "log": {"every": 5, "numerics_every": 3},
    }
    made = trainer(changes)
    counter, notice = CountHostReads(), NoticeHostReads()
    step, record = made._step, made.run.parts.numerics.record

    def watched_step(window):
        with counter, notice:
            return step(window)

    def watched_record():
        with counter:  # on a CPU its copy to the host is Python's own
            record()

    made._step, made.run.parts.numerics.record = watched_step, watched_record
    made.fit()
    assert (made.ledger.counts.applied, made.ledger.counts.skipped) == (8, 0)
    assert (counter.reads, notice.seen) == (0, set())


@pytest.mark.parametrize("mode", ["fp32", "bf16"])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_no_read_in_a_step_of_any_config(path, mode):
    run = build_run(load_config(path, [f"precision={mode}", "data.batch_size=8", "device=cpu"]).config)
    step, counter, notice = TrainStep(run.parts, lambda loss: loss), CountHostReads(), NoticeHostReads()
    for batch in islice(run.train_loader.epoch(0), 3):
        with counter, notice:
            step([batch])
    assert (counter.reads, notice.seen) == (0, set())
