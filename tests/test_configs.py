"""Every config of configs/ trains and evaluates, in FP32, in BF16 and in emulated FP16."""

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from mptrain.catalog import load_config
from mptrain.trainer.build import build_run
from mptrain.trainer.trainer import Trainer
from tests.trainer.runs import Recorder

CONFIGS = sorted((Path(__file__).parent.parent / "configs").rglob("*.yaml"))
PRECISIONS = {
    "fp32": ["precision=fp32"],
    "bf16": ["precision=bf16"],
    "fp16": ["precision=fp16", "precision.backend=emulated"],
}
STEPS = 2


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_trains_in(path, precision):
    config = load_config(path, [*PRECISIONS[precision], f"train.stop_at_step={STEPS}", "device=cpu"]).config
    run = build_run(config)
    assert run.in_force.mode == precision
    # One batch of the test data: whether a config learns is the business of docs/domains.md.
    trainer = Trainer(replace(run, eval_batches=list(islice(run.eval_batches, 1))), Recorder())
    trainer.fit()
    counts = trainer.ledger.counts
    assert counts.applied == STEPS
    assert counts.skipped == 0 or precision == "fp16"  # the first loss scale may be too large
    assert math.isfinite(trainer.train_loss)
    assert math.isfinite(trainer.metrics[run.parts.task.main_metric])
    assert trainer.metrics["samples"] == min(
        config.data.eval_batch_size or config.data.batch_size, len(run.splits.test)
    )
