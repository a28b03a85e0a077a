"""The host's account of the run: what every attempted step did, what it adds up to, and when to give up.

Owns: the counts (attempted, applied, skipped), the history of the loss scale, the rules that end a run as diverged,
and the events. Reads only outcomes that the device has published, so it may lag behind the device by a few steps; the
weights are safe meanwhile, because the step skips itself.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from mptrain.config.precision import OnSkip
from mptrain.config.schema import TrainConfig
from mptrain.errors import DivergedError
from mptrain.precision.outcome import Outcome
from mptrain.precision.overflow_census import NO_CULPRITS, Culprits
from mptrain.telemetry.records import Event

_FLOOR_PATIENCE = 3
"""Overflows in a row at the scale's floor before the run ends: scaling can help no more."""
_HISTORY = 20
"""Changes of the loss scale that are remembered."""
_NAMED = 8
"""Non-finite parameters that an event lists."""


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
    consecutive_zero_gradients: int = 0
    """Attempts whose loss is finite and whose witness (`Outcome`) was exactly 0."""


@dataclass
class Window:
    """What has been seen since the last logged record."""

    losses: list[float] = field(default_factory=list)
    steps: int = 0


class Ledger:
    """Adds up outcomes under the precision last entered."""

    def __init__(self, config: TrainConfig, on_skip: OnSkip) -> None:
        self._config = config
        self._on_skip = on_skip
        self._mode = ""
        self._min_scale: float | None = None
        self._scale_changes: deque[tuple[int, float, float]] = deque(maxlen=_HISTORY)
        self.counts = Counts()
        self.window = Window()
        self.last = Outcome(math.nan, math.nan, math.nan, 0.0)

    @property
    def steps_done(self) -> int:
        """Steps as schedule, `max_steps`, cadence and checkpoint names count them."""
        return self.counts.attempted if self._on_skip == "count" else self.counts.applied

    @property
    def retry_is_due(self) -> bool:
        """Whether the last attempt's batch is to be attempted again: a lower scale may cure an overflow."""
        overflowed = bool(self.last.skipped) and math.isfinite(self.last.loss)
        return self._on_skip == "retry" and self._min_scale is not None and overflowed

    @property
    def gradients_seem_gone(self) -> bool:
        """Whether so many witnesses in a row were 0 that it is worth a look at all gradients."""
        limit = self._config.max_zero_gradients
        return limit is not None and self.counts.consecutive_zero_gradients >= limit

    def enter_precision(self, mode: str, min_scale: float | None) -> None:
        """Count under another precision; `min_scale` is None where its loss scale cannot move.

        The first scale seen there is no change of scale.
        """
        self._mode, self._min_scale = mode, min_scale
        self.last = self.last._replace(loss_scale=math.nan)

    def add(self, outcome: Outcome, culprits: Culprits = NO_CULPRITS) -> Iterator[Event]:
        """Account for one attempt; yield its events; raise DivergedError when it is hopeless.

        `culprits` are the parameters whose gradients were not finite, where it was skipped.
        """
        counts, window = self.counts, self.window
        counts.attempted += 1
        window.steps += 1
        window.losses.append(outcome.loss)
        previous, self.last = self.last, outcome
        if outcome.loss_scale != previous.loss_scale and not math.isnan(previous.loss_scale):
            yield self._scale_change(previous.loss_scale, outcome.loss_scale)
        is_zero = outcome.witness == 0 and math.isfinite(outcome.loss) and not outcome.skipped
        counts.consecutive_zero_gradients = counts.consecutive_zero_gradients + 1 if is_zero else 0
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
        yield self._skip(outcome, nonfinite_loss, culprits)
        self._give_up_if_hopeless()

    def close_window(self) -> Window:
        """Return the window so far and begin the next."""
        closed, self.window = self.window, Window()
        return closed

    def scale_history(self) -> list[dict[str, float]]:
        """Return the last changes of the loss scale, oldest first: the attempted step that first used it, from, to."""
        return [{"attempted_step": step, "from": old, "to": new} for step, old, new in self._scale_changes]

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, the window begun, and the last scale: its next change is an event."""
        return {
            "counts": asdict(self.counts),
            "window": asdict(self.window),
            "loss_scale": self.last.loss_scale,
            "scale_changes": [list(change) for change in self._scale_changes],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self.counts, self.window = Counts(**state["counts"]), Window(**state["window"])
        self.last = self.last._replace(loss_scale=state["loss_scale"])
        self._scale_changes = deque((tuple(change) for change in state.get("scale_changes", [])), maxlen=_HISTORY)

    def _give_up_if_hopeless(self) -> None:
        counts, config = self.counts, self._config
        at = self.at_in_words()
        if counts.consecutive_nonfinite_losses >= config.max_nonfinite_losses:
            wider = f", or use precision={self._bf16}, whose range is FP32's" if self._bf16 else ""
            raise DivergedError(
                f"the loss was not finite {counts.consecutive_nonfinite_losses} times in a row, up to {at}; weights "
                "are those of the last good step. No loss scale cures this: look at the data, lower optimizer.lr, or "
                f"set train.clip_norm{wider}"
            )
        if counts.consecutive_at_floor >= _FLOOR_PATIENCE:
            raise DivergedError(
                f"gradients overflow at the loss scale's floor (min_scale {self._min_scale:g}), up to {at}"
                f"{self._history_in_words()}; weights are those of the last good step; {self._remedy()}"
            )
        if counts.consecutive_skips >= config.max_consecutive_skips:
            raise DivergedError(
                f"{counts.consecutive_skips} steps in a row were skipped for non-finite gradients, up to {at}"
                f"{self._history_in_words()}; weights are those of the last good step; {self._remedy()}, or raise "
                "train.max_consecutive_skips if this is expected"
            )

    def at_in_words(self) -> str:
        """Return how far the run has come, e.g. `attempted step 8 (5 applied, loss scale 65536)`."""
        scale = f"loss scale {self.last.loss_scale:g}" if self._scales(self.last) else "no loss scaling"
        return f"attempted step {self.counts.attempted} ({self.counts.applied} applied, {scale})"

    def _history_in_words(self) -> str:
        """Return e.g. `; loss scale 65536 -> 32768 at step 12 -> 16384 at step 13`, the middle left out where long."""
        changes = list(self._scale_changes)
        if self._min_scale is None or not changes:
            return ""
        steps = [f"{new:g} at step {step}" for step, _, new in changes]
        if len(steps) > 6:
            steps = [*steps[:2], "...", *steps[-3:]]
        return f"; loss scale {' -> '.join([f'{changes[0][1]:g}', *steps])}"

    def _remedy(self) -> str:
        """Return what to try where gradients overflow again and again, in the precision in force."""
        common = "lower optimizer.lr or set train.clip_norm"
        lower = f", lower precision.loss_scale.min_scale (now {self._min_scale:g})" if self._min_scale else ""
        if self._min_scale is None and self._scales(self.last):
            lower = ", set precision.loss_scale=dynamic"
        if self._bf16:
            return f"use precision={self._bf16}, whose range is FP32's{lower}, or {common}"
        if self._min_scale is not None:
            return f"{common}, or try precision.loss_scale=none: {self._mode} has a range that needs no scaling"
        return f"{lower[2:]}, {common}" if lower else common

    @property
    def _bf16(self) -> str | None:
        """The same mode in BF16, where the one in force is an FP16 mode."""
        return self._mode.replace("fp16", "bf16") if self._mode.startswith("fp16") else None

    def _scales(self, outcome: Outcome) -> bool:
        """Return whether the loss is scaled, by a scale that moves or by a constant one."""
        return self._min_scale is not None or outcome.loss_scale != 1

    def _skip(self, outcome: Outcome, nonfinite_loss: bool, culprits: Culprits) -> Event:
        counts, names, where = self.counts, culprits.names, ""
        if nonfinite_loss:
            kind, what = "nonfinite_loss", f"the loss is {outcome.loss}"
        else:
            kind, what = "overflow", "gradients are not finite"
            if names:
                where = f" (first in {names[0]}, {len(names)} of {culprits.of} parameters)"
            elif culprits.of:
                where = " (each one is, their norm is not)"
        scaled = f" at loss scale {outcome.loss_scale:g}" if self._scales(outcome) else ""
        retrying = "; retrying" if self.retry_is_due else ""
        return Event(
            kind=kind,
            attempted_step=counts.attempted,
            applied_steps=counts.applied,
            message=f"skipped, {what}{scaled}{where}{retrying}",
            data={
                "loss": outcome.loss,
                "loss_scale": outcome.loss_scale,
                "first": names[0] if names else None,
                "parameters": list(names[:_NAMED]),
                "nonfinite_parameters": len(names),
            },
        )

    def _scale_change(self, old: float, new: float) -> Event:
        self._scale_changes.append((self.counts.attempted, old, new))
        return Event(
            kind="scale_change",
            attempted_step=self.counts.attempted,
            applied_steps=self.counts.applied,
            message=f"loss scale {old:g} -> {new:g}",
            data={"from": old, "to": new},
        )
