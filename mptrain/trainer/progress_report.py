"""The state of training as one record for console and files. Must not: decide when it is reported."""

from __future__ import annotations

from mptrain.telemetry.records import Numerics, Progress
from mptrain.trainer.build import Run
from mptrain.trainer.ledger import Ledger
from mptrain.trainer.memory import peak_memory_bytes
from mptrain.trainer.pace import Pace
from mptrain.trainer.position import Position


def progress_of(
    run: Run, ledger: Ledger, pace: Pace, position: Position, loss: float, numerics: Numerics | None, wall_s: float
) -> Progress:
    """Return what is known now; `loss` is the window's mean, `wall_s` the time since training began.

    An emulated run shows no speed: it would be that of the emulation.
    """
    counts, last = ledger.counts, ledger.last
    speed = None if run.parts.policy.emulated else pace.latest
    return Progress(
        attempted_steps=counts.attempted,
        applied_steps=counts.applied,
        skipped_steps=counts.skipped,
        last_skipped_step=counts.last_skipped,
        steps_done=ledger.steps_done,
        epoch=position.epoch,
        epoch_step=-(-position.micro_batch // run.config.train.accumulate),
        loss=loss,
        lr=run.rates[max(ledger.steps_done - 1, 0)],
        grad_norm=None if run.config.train.clip_norm is None else last.grad_norm,
        loss_scale=last.loss_scale if run.parts.scaler.scales_loss else None,
        samples_per_s=speed.samples_per_s if speed else None,
        step_time_ms=speed.step_time_ms if speed else None,
        data_wait_fraction=speed.data_wait_fraction if speed else None,
        peak_memory_bytes=peak_memory_bytes(run.device),
        wall_s=wall_s,
        numerics=numerics,
    )
