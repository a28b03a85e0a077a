"""What the sampled numerics of a whole run come to, for result.json. Must not: measure."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from mptrain.telemetry.records import Numerics

_SHARES = tuple(field.name for field in fields(Numerics) if field.name.endswith("_share"))


class NumericsSummary:
    """The mean of each share over the samples taken, and the least headroom seen."""

    def __init__(self) -> None:
        self._samples = 0
        self._sums: dict[str, tuple[float, int]] = {}
        """Share -> its sum and the samples that had it: phases differ in what they measure."""
        self._least_headroom: float | None = None
        self.latest: Numerics | None = None

    def add(self, sample: Numerics) -> None:
        """Take one sample in."""
        self.latest = sample
        self._samples += 1
        for name in _SHARES:
            share = getattr(sample, name)
            if share is not None:
                total, count = self._sums.get(name, (0.0, 0))
                self._sums[name] = total + share, count + 1
        if sample.headroom is not None:
            known = self._least_headroom
            self._least_headroom = sample.headroom if known is None else min(known, sample.headroom)

    def as_dict(self) -> dict[str, Any] | None:
        """Return it as JSON-able data; None where nothing was sampled."""
        if self.latest is None:
            return None
        means = {name: total / count for name, (total, count) in self._sums.items()}
        return {"format": self.latest.format, "samples": self._samples, "least_headroom": self._least_headroom, **means}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return {"samples": self._samples, "sums": dict(self._sums), "least_headroom": self._least_headroom}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self._samples, self._sums = state["samples"], {name: tuple(sum_) for name, sum_ in state["sums"].items()}
        self._least_headroom = state["least_headroom"]
