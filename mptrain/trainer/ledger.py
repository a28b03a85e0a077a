"""The host's account of the run: what every attempted step did, what it adds up to, and when to give up.

Owns: the counts (attempted, applied, skipped), the rules that end a run as diverged, and the events. Reads only
outcomes that the device has published, so it may lag behind the device by a few steps; the weights are safe meanwhile,
because the step skips itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from mptrain.config.schema import TrainConfig
from mptrain.errors import DivergedError
from mptrain.precision.outcome import Outcome
from mptrain.telemetry.records import Event

_FLOOR_PATIENCE = 3
"""Overflows in a row at the scale's floor before the run ends: scaling can help no more."""


@dataclass
class Counts:
    """What is carried across a resume."""

    attempted: int = 0
    applied: int = 0
    skipped: int = 0
    last_skipped: int | None = None
    consecutive_skips: int = 0
    consecutive_nonfinite_losses: int = 0
    consecutive_at_floor: int = 0


@dataclass
class Window:
    """What has been seen since the last logged record."""

    losses: list[float] = field(default_factory=list)
    steps: int = 0


class Ledger:
    """Adds up outcomes; `min_scale` is None where the loss scale cannot move."""

    def __init__(self, config: TrainConfig, min_scale: float | None) -> None:
        self._config = config
        self._min_scale = min_scale
        self.counts = Counts()
        self.window = Window()
        self.last = Outcome(math.nan, math.nan, math.nan, 0.0)

    def add(self, outcome: Outcome) -> Iterator[Event]:
        """Account for one attempt; yield its events; raise DivergedError when it is hopeless."""
        counts, window = self.counts, self.window
        counts.attempted += 1
        window.steps += 1
        window.losses.append(outcome.loss)
        previous, self.last = self.last, outcome
        if outcome.loss_scale != previous.loss_scale and not math.isnan(previous.loss_scale):
            yield self._scale_change(previous.loss_scale, outcome.loss_scale)
        if not outcome.skipped:
            counts.applied += 1
            counts.consecutive_skips = counts.consecutive_nonfinite_losses = counts.consecutive_at_floor = 0
            return
        counts.skipped += 1
        counts.last_skipped = counts.attempted
        counts.consecutive_skips += 1
        nonfinite_loss = not math.isfinite(outcome.loss)
        counts.consecutive_nonfinite_losses = counts.consecutive_nonfinite_losses + 1 if nonfinite_loss else 0
        at_floor = self._min_scale is not None and not nonfinite_loss and outcome.loss_scale <= self._min_scale
        counts.consecutive_at_floor = counts.consecutive_at_floor + 1 if at_floor else 0
        yield self._skip(outcome, nonfinite_loss)
        self._give_up_if_hopeless()

    def close_window(self) -> Window:
        """Return the window so far and begin the next."""
        closed, self.window = self.window, Window()
        return closed

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, the window begun, and the last scale: its next change is an event."""
        return {"counts": asdict(self.counts), "window": asdict(self.window), "loss_scale": self.last.loss_scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self.counts, self.window = Counts(**state["counts"]), Window(**state["window"])
        self.last = self.last._replace(loss_scale=state["loss_scale"])

    def _give_up_if_hopeless(self) -> None:
        counts, config = self.counts, self._config
        scale = f"loss scale {self.last.loss_scale:g}" if self._min_scale is not None else "no loss scaling"
        at = f"attempted step {counts.attempted} ({counts.applied} applied, {scale})"
        if counts.consecutive_nonfinite_losses >= config.max_nonfinite_losses:
            raise DivergedError(
                f"the loss was not finite {counts.consecutive_nonfinite_losses} times in a row, up to {at}; weights "
                "are those of the last good step. No loss scale cures this: look at the data, lower optimizer.lr, or "
                "set train.clip_norm"
            )
        if counts.consecutive_at_floor >= _FLOOR_PATIENCE:
            raise DivergedError(
                f"gradients overflow at the loss scale's floor (min_scale {self._min_scale:g}), up to {at}; "
                "use precision=bf16, lower optimizer.lr, or set train.clip_norm"
            )
        if counts.consecutive_skips >= config.max_consecutive_skips:
            raise DivergedError(
                f"{counts.consecutive_skips} steps in a row were skipped for non-finite gradients, up to {at}; "
                "lower optimizer.lr, or raise train.max_consecutive_skips if this is expected"
            )

    def _skip(self, outcome: Outcome, nonfinite_loss: bool) -> Event:
        counts = self.counts
        if nonfinite_loss:
            kind, what = "nonfinite_loss", f"the loss is {outcome.loss}"
        else:
            kind, what = "overflow", "gradients are not finite"
        scaled = f" at loss scale {outcome.loss_scale:g}" if self._min_scale is not None else ""
        return Event(
            kind=kind,
            attempted_step=counts.attempted,
            applied_steps=counts.applied,
            message=f"skipped, {what}{scaled}",
            data={"loss": outcome.loss, "loss_scale": outcome.loss_scale},
        )

    def _scale_change(self, old: float, new: float) -> Event:
        return Event(
            kind="scale_change",
            attempted_step=self.counts.attempted,
            applied_steps=self.counts.applied,
            message=f"loss scale {old:g} -> {new:g}",
            data={"from": old, "to": new},
        )
